"""The hires pass: from the enlarged first picture, with the hints fitted anew and the units of that pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from controlstack.core.errors import HostError
from controlstack.core.unit import ControlUnit
from controlstack.pipelines.bases import Base
from controlstack.pipelines.drawing import generate
from controlstack.pipelines.request import Request
from controlstack.units.choices import HiresOption
from controlstack.units.request import UnitRequest
from PIL import Image as Pillow

Build = Callable[[Base, int], tuple[Any, Any]]
SMALL: dict[str, Any] = {"steps": 4, "width": 64, "height": 64, "scheduler": "ddim", "prompt": "a red star"}
HINT = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(3))


def test_a_hires_pass_is_the_first_picture_enlarged_and_drawn_again(tiny: Base, build: Build) -> None:
    unit = ControlUnit(model=build(tiny, 1)[1], hint=HINT)
    both = generate(tiny, Request(hires=1.5, hires_strength=0.5, seed=7, **SMALL), [unit])
    assert both.images.shape == (1, 96, 96, 3)
    first = generate(tiny, Request(seed=7, **SMALL), [unit])
    large = np.asarray(Pillow.fromarray(first.images[0]).resize((96, 96), Pillow.Resampling.LANCZOS))
    again = {**SMALL, "width": 96, "height": 96}
    second = generate(tiny, Request(image=large, strength=0.5, seed=7, **again), [unit])
    assert np.array_equal(both.images, second.images)
    assert str(both.firings[0]) == "6 of 6"


@pytest.mark.parametrize(("part", "acted"), [("LOW", "4 of 6"), ("HIGH", "2 of 6"), ("BOTH", "6 of 6")])
def test_a_unit_acts_in_the_passes_that_it_is_for(tiny: Base, build: Build, part: str, acted: str) -> None:
    said = UnitRequest(hires=HiresOption[part])
    unit = ControlUnit(model=build(tiny, 1)[1], hint=HINT, origin=said)
    told: list[int] = []
    found = generate(tiny, Request(hires=1.5, **SMALL), [unit], told.append)
    assert str(found.firings[0]) == acted
    assert told == [1, 2, 3, 4, 5, 6]
    assert Request(hires=1.5, **SMALL).all_steps == 6


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"hires": 0.5}, "expected 1"),
        ({"hires": float("nan")}, "expected 1"),
        ({"hires": 2.0, "hires_strength": 0.0}, "strength of the hires pass"),
        ({"hires": 2.0, "hires_strength": 0.1}, "leave none to run"),
        ({"hires": 2.0, "hires_steps": -1}, "steps of the hires pass"),
        ({"hires": 8.0, "width": 4096, "height": 4096}, "too many pixels"),
    ],
)
def test_what_no_hires_pass_can_be_is_said(said: dict[str, Any], reason: str) -> None:
    with pytest.raises(HostError, match=reason):
        Request(**{**SMALL, **said})


def test_a_hires_pass_and_a_mask_exclude_each_other() -> None:
    picture, mask = np.zeros((64, 64, 3), np.uint8), np.full((64, 64), 255, np.uint8)
    with pytest.raises(HostError, match="leave one of the two out"):
        Request(hires=2.0, image=picture, mask=mask, **SMALL)
