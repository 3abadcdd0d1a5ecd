"""The settings as a ComfyUI workflow: every node of ours, input and choice is one that the nodes have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from controlstack.core.errors import HostError
from controlstack.core.modes import ControlMode, ResizeMode
from controlstack.core.schedule import RangeBasis
from controlstack.pipelines.schedulers import NAMES
from controlstack.preprocessors import find
from controlstack.standalone.studio.library import make_library
from controlstack.standalone.studio.said import make_job
from controlstack.standalone.studio.workflow import SAMPLERS, workflow

ROOT = Path(__file__).resolve().parents[2]
OURS = json.loads((ROOT / "locales" / "en" / "nodeDefs.json").read_text(encoding="utf-8"))
OUTPUTS = {
    "CheckpointLoaderSimple": 3,
    "DiffusersLoader": 3,
    "LoraLoader": 2,
    "ControlStackControlUnit": 2,
    "ControlStackApplyControlUnits": 2,
}
PICTURE = np.zeros((64, 64, 3), np.uint8)
MASK = np.full((64, 64), 255, np.uint8)
SAID: dict[str, Any] = {"prompt": "a house", "negative": "rain", "seed": 3, "width": 64, "height": 64}
UNITS: list[dict[str, Any]] = [
    {
        "image": PICTURE, "preprocessor": "canny", "parameters": {"low": 50}, "model": "canny", "weight": 0.5,
        "end": 0.6, "curve": "0: 1; 1: 0.2", "effect_mask": MASK, "pixel_perfect": True, "basis": "noise",
        "mode": "prompt",
    },
    {"image": PICTURE, "preprocessor": "auto", "model": "color", "block_weights": "soft:0.8", "enabled": False},
    {"image": PICTURE, "preprocessor": "none", "model": "color", "block_weights": "1, 0.5", "resize": "stretch"},
]  # fmt: skip


@pytest.fixture(scope="module")
def drawn() -> dict[str, Any]:
    library = make_library([], [])
    return json.loads(workflow(library, make_job(library, {**SAID, "hires": 1.5, "clip_skip": 2}, UNITS)))


def of_kind(drawn: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [node["inputs"] for node in drawn.values() if node["class_type"] == kind]


def test_our_nodes_have_every_input(drawn: dict[str, Any]) -> None:
    ours = [node for node in drawn.values() if node["class_type"].startswith("ControlStack")]
    assert len(ours) == 7  # two of three units are on, each with its model; a schedule, block weights, and what applies
    for node in ours:
        known = OURS[node["class_type"]]["inputs"]
        assert {name.partition(".")[0] for name in node["inputs"]} <= set(known), node


def test_choices_and_numbers_are_those_of_the_nodes(drawn: dict[str, Any]) -> None:
    for unit in of_kind(drawn, "ControlStackControlUnit"):
        assert ControlMode(unit["mode"]) and ResizeMode(unit["resize"]) and RangeBasis(unit["basis"])
        own = {name.partition(".")[2] for name in unit if name.startswith("preprocessor.")}
        assert own <= {each.name for each in find(unit["preprocessor"]).parameters}
    first, second = of_kind(drawn, "ControlStackControlUnit")
    assert (first["weight"], first["end"], first["preprocessor.low"]) == (0.5, 0.6, 50)
    assert (second["resize"], second["preprocessor"], second["weight"]) == ("just resize", "none", 1.0)


def test_every_link_leads_to_an_output(drawn: dict[str, Any]) -> None:
    for number, node in drawn.items():
        for value in node["inputs"].values():
            if isinstance(value, list):
                source, output = value
                assert int(source) < int(number)
                assert output < OUTPUTS.get(drawn[source]["class_type"], 1)


def test_units_are_chained_and_applied_and_both_passes_sampled(drawn: dict[str, Any]) -> None:
    units = [number for number, node in drawn.items() if node["class_type"] == "ControlStackControlUnit"]
    assert drawn[units[1]]["inputs"]["units_before"] == [units[0], 0]
    assert of_kind(drawn, "ControlStackApplyControlUnits")[0]["units"] == [units[1], 0]
    assert [each["denoise"] for each in of_kind(drawn, "KSampler")] == [1.0, 0.5]
    assert {each["seed"] for each in of_kind(drawn, "KSampler")} == {3}
    assert of_kind(drawn, "CLIPSetLastLayer")[0]["stop_at_clip_layer"] == -2


def test_a_base_in_a_folder_and_the_seed_of_a_preprocessor_are_said() -> None:
    library = make_library([], [])
    units = [{"image": PICTURE, "preprocessor": "shuffle", "seed": 7, "model": "color"}]
    nodes = json.loads(workflow(library, make_job(library, SAID, units)))
    assert [node["model_path"] for node in of_kind(nodes, "DiffusersLoader")] == ["base"]
    assert of_kind(nodes, "ControlStackControlUnit")[0]["preprocessor.seed"] == 7


def test_a_unit_of_one_pass_is_refused() -> None:
    library = make_library([], [])
    units = [{"image": PICTURE, "model": "canny", "preprocessor": "canny", "hires": "high"}]
    with pytest.raises(HostError, match="one of two passes"):
        workflow(library, make_job(library, {**SAID, "hires": 1.5}, units))


def test_every_scheduler_has_a_sampler() -> None:
    assert set(SAMPLERS) == set(NAMES)


@pytest.mark.parametrize(
    ("said", "reason"),
    [({"prompt": ["a", "b"]}, "one prompt"), ({"image": PICTURE, "mask": MASK}, "take the mask away")],
)
def test_what_no_workflow_says_is_refused(said: dict[str, Any], reason: str) -> None:
    library = make_library([], [])
    with pytest.raises(HostError, match=reason):
        workflow(library, make_job(library, {**SAID, **said}, []))
