"""The shipped members of other families control: half of the measured margins is asserted, see docs/fidelity.md."""

from __future__ import annotations

import pytest
import torch
from controlstack.core.unit import ControlUnit
from controlstack.models.registry import load_control_model
from controlstack.pipelines.bases import load_base
from controlstack.pipelines.drawing import generate
from controlstack.pipelines.request import Request
from controlstack.pipelines.tiny_world import BASE, CONTROLS, MEMBERS, TINY
from controlstack.training.evaluation.evaluate import conditions, make_trial, score
from controlstack.training.evaluation.members import load_members, member_cases, other

SCENES, STEPS = 2, 8
MARGINS = {  # what a member gains over no control of its kind, and over the hint of another scene
    "canny + ip-adapter": ("colour_accuracy", 0.3),
    "lllite": ("colour_accuracy", 0.45),
    "union as canny": ("edge_f1", 0.22),
    "union as depth": ("depth_error", 0.045),
    "union as tile": ("colour_accuracy", 0.22),
}
SHIPPED = 24_000_000  # bytes of all weights at most


@pytest.fixture(scope="module")
def scores() -> dict[str, dict[str, float]]:
    """Without a prompt: nothing but the units can tell what to draw."""
    trial = make_trial(SCENES)
    base, prompts = load_base(BASE), conditions(trial)[1].prompts
    canny = load_control_model(CONTROLS / "canny.safetensors", dtype=torch.float32)
    cases = member_cases(trial, load_members(MEMBERS), canny)
    settings = {"steps": STEPS, "guidance": 1.0, "width": 128, "height": 128, "batch": SCENES, "scheduler": "ddim"}
    stacks = {**without(cases), **cases}
    return {
        name: score(trial, generate(base, Request(prompt=prompts, **settings), units).images)
        for name, units in stacks.items()
    }


def without(cases: dict[str, list[ControlUnit]]) -> dict[str, list[ControlUnit]]:
    """The stacks without the members, as far as cases need them."""
    beside = [units for units in cases.values() if len(units) > 1]
    found = {"canny": beside[0][:1]} if beside else {}
    return {"none": [], **found} if len(beside) < len(cases) else found


@pytest.mark.parametrize("name", MARGINS)
def test_a_member_obeys_its_hint(scores: dict[str, dict[str, float]], name: str) -> None:
    measure, margin = MARGINS[name]
    sign = -1 if measure == "depth_error" else 1
    compared = ("canny" if name.startswith("canny + ") else "none", other(name))
    gained = {each: sign * (scores[name][measure] - scores[each][measure]) for each in compared}
    assert min(gained.values()) > margin, gained


def test_every_member_is_tried(scores: dict[str, dict[str, float]]) -> None:
    tried = {name for name in scores if name not in ("none", "canny") and not name.endswith("of another scene")}
    assert tried == set(MARGINS)


def test_all_shipped_weights_are_small() -> None:
    assert sum(path.stat().st_size for path in TINY.rglob("*.safetensors")) <= SHIPPED
