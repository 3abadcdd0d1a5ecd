"""Why a unit never acted: the reason that holds, in any language, and what to change."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from controlstack.core.control import ControlModel
from controlstack.core.schedule import Keyframe, Schedule
from controlstack.core.unit import ControlUnit
from controlstack.models.registry import load_control_model
from controlstack.pipelines import tiny_world
from controlstack.units.saying import why_idle

ZERO = (Keyframe(at=0, weight=0), Keyframe(at=1, weight=0))
LATER = (Keyframe(at=0, weight=0), Keyframe(at=1, weight=1))


@pytest.fixture(scope="module")
def model() -> ControlModel:
    return load_control_model(tiny_world.CONTROLS / "canny.safetensors")


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ({"weight": 0.0}, "its weight is 0"),
        ({"mask": torch.zeros(1, 1, 4, 4)}, "its effect mask is black everywhere"),
        ({"block_weights": (0.0,) * 13}, "its block weights are all 0"),
        ({"schedule": Schedule(keyframes=ZERO)}, "its curve is 0 everywhere"),
        ({"schedule": Schedule(end=0.05, keyframes=LATER)}, "its range, 0 to 0.05, or its curve is 0 there"),
        ({"schedule": Schedule(start=1)}, "no step lies in its range, 1 to 1: widen it"),
    ],
)
def test_the_reason_is_named(model: ControlModel, said: dict[str, Any], sentence: str) -> None:
    unit = ControlUnit(model=model, hint=torch.ones(1, 3, 8, 8), **said)
    assert sentence in why_idle(unit)
    assert why_idle(unit, enabled=False) == "it is off: switch it on"
    assert why_idle(unit, say=lambda sentence, **values: f"{len(values)} values") in ("0 values", "2 values")
