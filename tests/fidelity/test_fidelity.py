"""The shipped tiny controls control: half of the measured margins is asserted, see docs/fidelity.md."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import pytest
import torch
from controlstack.core.unit import ControlUnit
from controlstack.models.registry import load_control_model
from controlstack.pipelines.bases import load_base
from controlstack.pipelines.drawing import generate
from controlstack.pipelines.request import Request
from controlstack.pipelines.tiny_world import BASE, CONTROLS
from controlstack.training.evaluation.evaluate import Condition, Image, cases, conditions, make_trial, score

SCENES, STEPS = 4, 12
TRIAL = make_trial(SCENES)
Scores = dict[str, dict[str, float]]


def measure(condition: Condition, kinds: Sequence[str], names: Collection[str] = ()) -> tuple[Scores, dict[str, Image]]:
    """Draw and score the cases of some controls. names: of the only cases that are looked at."""
    controls = {kind: load_control_model(CONTROLS / f"{kind}.safetensors", dtype=torch.float32) for kind in kinds}
    base = load_base(BASE)

    def draw(units: Sequence[ControlUnit]) -> Image:
        request = Request(
            prompt=condition.prompts,
            steps=STEPS,
            guidance=condition.guidance,
            width=128,
            height=128,
            batch=SCENES,
            scheduler="ddim",
        )
        return generate(base, request, units).images

    images = {name: draw(units) for name, units in cases(TRIAL, controls).items() if not names or name in names}
    return {name: score(TRIAL, pictures) for name, pictures in images.items()}, images


@pytest.fixture(scope="module")
def drawn() -> tuple[Scores, dict[str, Image]]:
    """Without a prompt: nothing but the units can tell what to draw."""
    return measure(conditions(TRIAL)[1], ("canny", "color", "depth"))


@pytest.fixture(scope="module")
def scores(drawn: tuple[Scores, dict[str, Image]]) -> Scores:
    return drawn[0]


def test_weight_0_is_no_control_bit_for_bit(drawn: tuple[Scores, dict[str, Image]]) -> None:
    assert (drawn[1]["canny, weight 0"] == drawn[1]["none"]).all()


def test_canny_draws_the_edges_of_its_hint(scores: Scores) -> None:
    assert scores["canny"]["edge_f1"] > scores["none"]["edge_f1"] + 0.33
    assert scores["canny"]["edge_f1"] > scores["canny of another scene"]["edge_f1"] + 0.33


def test_color_paints_the_colours_of_its_hint(scores: Scores) -> None:
    assert scores["color"]["colour_accuracy"] > scores["none"]["colour_accuracy"] + 0.38
    assert scores["color"]["colour_accuracy"] > scores["color of another scene"]["colour_accuracy"] + 0.47


def test_two_units_are_both_obeyed(scores: Scores) -> None:
    both = scores["canny + color"]
    assert both["edge_f1"] > scores["canny"]["edge_f1"] + 0.07
    assert both["colour_accuracy"] > scores["none"]["colour_accuracy"] + 0.38


def test_fidelity_grows_with_the_weight_and_with_the_range(scores: Scores) -> None:
    none, whole = scores["none"]["edge_f1"], scores["canny"]["edge_f1"]
    for part in ("canny, weight 0.5", "canny, steps 0 to 0.5"):
        assert none + 0.1 < scores[part]["edge_f1"] < whole - 0.05


def test_a_mask_acts_where_it_is(drawn: tuple[Scores, dict[str, Image]]) -> None:
    _, images = drawn
    change = np.abs(images["color, left half"].astype(int) - images["color"]).mean(axis=(0, 1, 3))
    assert 3 * change[:48].mean() < change[80:].mean()


def test_depth_follows_its_hint(scores: Scores) -> None:
    assert scores["depth"]["depth_error"] < scores["none"]["depth_error"] - 0.08
    assert scores["depth"]["depth_error"] < scores["depth of another scene"]["depth_error"] - 0.07


AIMS = {"canny": ("edge_f1", 0.6), "color": ("colour_accuracy", 0.9)}


def check_aims(scores: Scores) -> None:
    for kind, (measure_of, least) in AIMS.items():
        assert scores[kind][measure_of] > least, kind


def test_the_aims_are_met_without_a_prompt(scores: Scores) -> None:
    check_aims(scores)


def test_the_aims_are_met_under_a_caption() -> None:
    check_aims(measure(conditions(TRIAL)[0], ("canny", "color"), AIMS)[0])
