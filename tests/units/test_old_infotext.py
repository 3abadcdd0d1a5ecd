"""Texts that sd-webui-controlnet wrote in 2023 mean what they meant there, or are said to be unknown."""

from __future__ import annotations

from typing import Any

import pytest
from controlstack.core.resize import ResizeMode
from controlstack.core.schedule import RangeBasis
from controlstack.core.unit import ControlMode
from controlstack.units.webui import infotext
from controlstack.units.webui.fields import UnitArgs, numbers_of, parse_unit

BRACKETS = (
    "preprocessor: canny, model: control_v11p_sd15_canny [d14c016b], weight: 0.9, starting/ending: (0.1, 0.75), "
    "resize mode: Resize and Fill, pixel perfect: False, control mode: My prompt is more important, "
    "preprocessor params: (768, 50, 150)"
)
PICTURE = (
    "a cat\nNegative prompt: a dog\n"
    "Steps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1, Size: 512x512, {}, Version: v1.5.1"
)


def read(text: str) -> dict[int, UnitArgs]:
    settings = infotext.parse_generation(text).settings
    return {number: parse_unit(unit) for number, unit in infotext.read(settings).items()}


@pytest.mark.parametrize(("key", "number"), [("ControlNet", 0), ("ControlNet 0", 0), ("ControlNet 2", 2)])
def test_fields_in_brackets(key: str, number: int) -> None:
    (found,) = read(PICTURE.format(f'{key}: "{BRACKETS}"')).items()
    unit = found[1]
    assert found[0] == number and unit.enabled
    assert (unit.module, unit.model) == ("canny", "control_v11p_sd15_canny [d14c016b]")
    assert (unit.weight, unit.guidance_start, unit.guidance_end) == (0.9, 0.1, 0.75)
    assert unit.resize_mode is ResizeMode.FILL and unit.control_mode is ControlMode.PROMPT
    assert unit.processor_res == 768 and numbers_of(unit) == {"low": 50, "high": 150}
    assert unit.range_basis is RangeBasis.WEBUI and not unit.pixel_perfect


def test_words_of_other_programs_that_copied_it() -> None:
    text = BRACKETS.replace("pixel perfect: False", "pixel_perfect: True").replace(
        "(768, 50, 150)", "(1024, None, None)"
    )
    unit = parse_unit(infotext.read({"ControlNet 0": text})[0])
    assert unit.pixel_perfect and unit.processor_res == 1024 and numbers_of(unit) == {}


def test_guess_mode_is_what_it_became() -> None:
    text = "preprocessor: none, model: x, weight: 1, starting/ending: (0, 1), guess mode: {}"
    modes = [parse_unit(infotext.read({"ControlNet": text.format(said)})[0]).control_mode for said in (True, False)]
    assert modes == [ControlMode.CONTROL, ControlMode.BALANCED]


def test_an_entry_for_each_field() -> None:
    second = (
        "ControlNet-1 Enabled: True, ControlNet-1 Module: depth, ControlNet-1 Model: control_depth-fp16 [400750f6], "
    )
    second += "ControlNet-1 Weight: 0.5, ControlNet-1 Guidance Start: 0.2, ControlNet-1 Guidance End: 0.8"
    off = "ControlNet-0 Enabled: False, ControlNet-0 Module: canny, ControlNet-0 Model: x"
    (found,) = read(PICTURE.format(f"{off}, {second}")).items()
    assert found[0] == 1
    assert (found[1].module, found[1].model, found[1].weight) == ("depth", "control_depth-fp16 [400750f6]", 0.5)
    assert (found[1].guidance_start, found[1].guidance_end) == (0.2, 0.8)
    first = "ControlNet Enabled: True, ControlNet Module: canny, ControlNet Model: x, ControlNet Weight: 1, "
    unit = read(PICTURE.format(f"{first}ControlNet Guidance Strength: 0.6"))[0]
    assert (unit.module, unit.guidance_start, unit.guidance_end) == ("canny", 0, 0.6)


@pytest.mark.parametrize("text", ["", "nonsense", "a: b, c: d"])
def test_what_is_in_no_grammar_is_known_to_be(text: str) -> None:
    parameters: dict[str, Any] = {"ControlNet 0": text, "ControlNet 1": BRACKETS, "ControlNet note": "x", "Steps": "4"}
    assert list(infotext.read(parameters)) == [1] and infotext.unread(parameters) == ["ControlNet 0"]
