"""Pictures' texts put back into the page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from controlstack.core.schedule import RangeBasis
from controlstack.scripts.webui.clients.remote import GRID
from controlstack.scripts.webui.host.files import ModelFiles
from controlstack.scripts.webui.page import paste
from controlstack.scripts.webui.page.grid import AXES, setter
from controlstack.scripts.webui.request.arguments import FIELDS, THRESHOLDS, from_page_unit
from controlstack.scripts.webui.request.preprocessing import with_defaults
from controlstack.units.choices import BASES
from controlstack.units.webui import infotext
from controlstack.units.webui.fields import parse_unit

PEER = (
    "Module: canny, Model: {}, Weight: 0.7, Resize Mode: Just Resize, Processor Res: 256, Threshold A: 30, "
    "Threshold B: 60, Guidance Start: 0.1, Guidance End: 0.9, Pixel Perfect: True, Control Mode: Balanced"
)


@pytest.fixture
def files(tmp_path: Path) -> ModelFiles:
    for name in ("canny", "old one, v2"):
        (tmp_path / f"{name}.safetensors").write_bytes(name.encode())
    return ModelFiles([tmp_path])


def test_units_are_switched_on_and_the_others_off(files: ModelFiles) -> None:
    parameters: dict[str, Any] = {"Steps": "4", "ControlNet 1": PEER.format("canny")}
    assert paste.explode(parameters, 3, files) == []
    assert [parameters[paste.key_of(index, "enabled")]["value"] for index in range(3)] == [False, True, False]
    assert parameters["ControlNet 1 model"]["value"] == next(name for name in files.names if name.startswith("canny"))
    assert parameters["ControlNet 1 weight"]["value"] == 0.7
    low = parameters["ControlNet 1 threshold_a"]
    assert (low["value"], low["label"], low["maximum"], low["visible"]) == (30, "Low Threshold", 255, True)
    assert not parameters["ControlNet 1 threshold_c"]["visible"]
    assert not parameters["ControlNet 1 processor_res"]["visible"], "pixel perfect chooses the resolution"


def test_a_preprocessor_that_no_unit_can_use_is_said(files: ModelFiles) -> None:
    """Its unit is on, as the text says, so it must not be found out only when a picture is asked for."""
    (said,) = paste.explode({"ControlNet 0": "Module: ip-adapter_pulid, Model: canny"}, 1, files)
    assert said.startswith("unit 0: ") and "cannot be used: " in said


def test_a_text_in_an_unknown_form_is_said(files: ModelFiles) -> None:
    (said,) = paste.explode({"ControlNet 0": "nonsense"}, 3, files)
    assert "'ControlNet 0' in a form that is not known" in said


def test_a_text_of_2023_switches_its_unit_on(files: ModelFiles) -> None:
    text = "preprocessor: canny, model: canny, weight: 1, starting/ending: (0, 0.5), preprocessor params: (256, 30, 60)"
    parameters: dict[str, Any] = {"ControlNet": text}
    assert paste.explode(parameters, 1, files) == []
    shown = [
        parameters[paste.key_of(0, name)]["value"] for name in ("enabled", "module", "guidance_end", "threshold_b")
    ]
    assert shown == [True, "canny", 0.5, 60]


def test_a_text_without_units_changes_nothing(files: ModelFiles) -> None:
    parameters: dict[str, Any] = {"Steps": "4"}
    assert paste.explode(parameters, 3, files) == [] and parameters == {"Steps": "4"}


def test_what_a_picture_was_made_with_is_what_the_page_then_sends(files: ModelFiles) -> None:
    unit = with_defaults(
        parse_unit(
            {"enabled": True, "module": "outpaint", "model": files.names[1], "parameters": {"left": 8, "feather": 1},
             "curve": "0: 1; 0.5: 0.25 hold", "hr_option": 2, "range_basis": "noise", "union_control_type": 1,
             "block_weights": [0.5] * 13, "control_mode": 2, "resize_mode": 0}
        )
    )  # fmt: skip
    parameters: dict[str, Any] = dict(infotext.write([unit]))
    assert paste.explode(parameters, 1, files) == []
    sent = {name: parameters[paste.key_of(0, name)]["value"] for name in paste.PASTED}
    again = parse_unit(from_page_unit({**dict.fromkeys(FIELDS), **sent, "inpaint_crop_input_image": True}))
    numbers = {"left": 8, "top": 64, "right": 64, "bottom": 64, "feather": 1}
    assert {"left": again.threshold_a, "top": again.threshold_b, **again.parameters} == numbers
    same = {name: getattr(unit, name) for name in ("model", "curve", "hr_option", "range_basis", "control_mode",
            "union_control_type", "block_weights", "resize_mode")}  # fmt: skip
    assert {name: getattr(again, name) for name in same} == same


def test_a_model_that_is_not_here_is_said_and_none_chosen(files: ModelFiles) -> None:
    parameters: dict[str, Any] = {"ControlNet 0": PEER.format("kanny [00000000]")}
    (problem,) = paste.explode(parameters, 1, files)
    assert "no control model 'kanny [00000000]'" in problem and "canny" in problem
    assert parameters["ControlNet 0 model"]["value"] == "None" and parameters["ControlNet 0 enabled"]["value"]


@pytest.mark.parametrize(
    ("text", "words"),
    [("Module: cannyy, Model: canny", "no preprocessor"), ("Module: canny, Model: canny, Weight: 70", "weight is 70")],
)
def test_a_unit_that_makes_no_sense_stays_off(files: ModelFiles, text: str, words: str) -> None:
    parameters: dict[str, Any] = {"ControlNet 0": text}
    (problem,) = paste.explode(parameters, 1, files)
    assert words in problem and not parameters["ControlNet 0 enabled"]["value"]


def test_more_units_than_tabs_are_said(files: ModelFiles) -> None:
    parameters: dict[str, Any] = {f"ControlNet {index}": PEER.format("canny") for index in (0, 4)}
    (problem,) = paste.explode(parameters, 2, files)
    assert "unit 4" in problem and "2" in problem


def test_every_pasted_field_is_a_widget() -> None:
    assert set(paste.PASTED) < set(FIELDS) and set(THRESHOLDS) < set(paste.PASTED)


def test_axes_note_values_for_their_unit_and_never_change_another_request() -> None:
    class Request:
        pass

    first, second = Request(), Request()
    setter(1, "weight")(first, 0.5, [])
    setattr(second, GRID, getattr(first, GRID))  # a flat copy
    setter(0, "weight")(second, 0.25, [])
    setter(0, "module")(second, "canny", [])
    assert getattr(first, GRID)["weight"][:2] == [None, 0.5]
    assert getattr(second, GRID)["weight"][:2] == [0.25, 0.5] and getattr(second, GRID)["module"][0] == "canny"


def test_axes_set_fields_that_units_have() -> None:
    for axis in AXES:
        assert axis.field in FIELDS


@pytest.mark.parametrize("basis", RangeBasis)
def test_a_range_means_after_pasting_what_it_meant_before(files: ModelFiles, basis: RangeBasis) -> None:
    unit = parse_unit({"enabled": True, "model": files.names[0], "guidance_end": 0.5, "range_basis": basis})
    for host in RangeBasis:
        parameters: dict[str, Any] = dict(infotext.write([unit], host))
        assert paste.explode(parameters, 1, files, host) == []
        assert parameters["ControlNet 0 range_basis"]["value"] == BASES.label(basis)


@pytest.mark.parametrize("host", RangeBasis)
def test_a_text_without_a_basis_has_that_of_the_program(files: ModelFiles, host: RangeBasis) -> None:
    parameters: dict[str, Any] = {"ControlNet 0": PEER.format("canny")}
    assert paste.explode(parameters, 1, files, host) == []
    assert parameters["ControlNet 0 range_basis"]["value"] == BASES.label(host)
