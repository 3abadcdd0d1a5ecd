"""The comparison of units that are computed on a part of the picture: that a part is what it says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import ModuleType

import pytest
import torch
from controlstack.core.schedule import progress_at
from controlstack.core.stack import ControlStack
from controlstack.core.step import Step
from controlstack.core.unit import ControlUnit
from controlstack.models.registry import load_control_model
from controlstack.pipelines.tiny_world import CONTROLS


@pytest.fixture(scope="module")
def region(load: Callable[[str], ModuleType]) -> ModuleType:
    return load("parts.reuse_region")


@pytest.fixture
def step() -> Step:
    return Step(
        x=torch.randn(2, 4, 16, 16),
        timestep=torch.full((2,), 500.0),
        context=torch.randn(2, 77, 64),
        cond=(True, True),
        progress=progress_at(0, 4, noise=0.1),
    )


def test_a_part_that_is_all_of_it_is_the_exact_unit(region: ModuleType, step: Step) -> None:
    model = load_control_model(CONTROLS / "canny.safetensors")
    unit = ControlUnit(model=model, hint=torch.rand(1, 3, 128, 128))
    cropped = replace(unit, model=region.Cropped(model, region.Box(0, 16, 0, 16)))
    exact, found = (dict(ControlStack([each])(step).tensors()) for each in (unit, cropped))
    assert len(exact) == 13
    assert all(found[point].equal(tensor) for point, tensor in exact.items())


def test_nothing_is_added_beside_a_part(region: ModuleType, step: Step) -> None:
    model = load_control_model(CONTROLS / "canny.safetensors")
    unit = ControlUnit(model=region.Cropped(model, region.Box(0, 8, 8, 16)), hint=torch.rand(1, 3, 128, 128))
    for _, tensor in ControlStack([unit])(step).tensors():
        half = tensor.shape[-1] // 2
        assert tensor[..., :half, half:].abs().min() > 0
        assert not tensor[..., half:, :].any() and not tensor[..., :, :half].any()


def test_the_table_has_a_line_for_each_part_and_control(region: ModuleType) -> None:
    row = {"part": "a quarter", "control": "canny", "cost": 0.25}
    row |= dict.fromkeys(("cropped", "strong", "none"), 0.05)
    row |= {f"{name}_noise": 0.004 for name in ("cropped", "strong", "none")}
    assert region.as_markdown([row]).splitlines()[2:] == ["| a quarter | canny | 0.25 |" + " 5.0 ± 0.4 |" * 3]
