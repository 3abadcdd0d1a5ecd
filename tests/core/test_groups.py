"""Different networks of one shape in one call: the same numbers as one after another, and one set of weights."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from controlstack.core.control import Prepared, Prompt
from controlstack.core.network.effects import Effects
from controlstack.core.network.points import Point
from controlstack.core.reuse.said import Reuse
from controlstack.core.schedule import Schedule
from controlstack.core.stack import ControlStack
from controlstack.core.step import Step
from controlstack.core.unit import ControlMode, ControlUnit
from controlstack.models.families.controlnet import model as controlnet
from controlstack.models.families.controlnet.model import ControlNetModel
from torch import Tensor

MakeModel = Callable[..., ControlNetModel]
MakeStep = Callable[..., Step]
STEPS = 4


@pytest.fixture
def units(make_model: MakeModel, hint: Tensor) -> list[ControlUnit]:
    """Three units on different networks."""
    return [ControlUnit(model=make_model(seed), hint=hint.roll(8 * seed, -1)) for seed in range(3)]


def tensors(effects: Effects) -> list[Tensor]:
    return [each for each in (*effects.output, *effects.middle) if each is not None]


def runs(units: list[ControlUnit], make_step: MakeStep, *, beside: bool, pictures: Any = None) -> list[list[Tensor]]:
    """All residuals of a run, step by step."""
    stack = ControlStack(units, beside=beside)
    steps = [replace(make_step(index, STEPS), pictures=pictures, steps=STEPS) for index in range(STEPS)]
    if pictures is not None:  # whose rows are the same latents
        steps = [replace(step, x=step.x[[*pictures]]) for step in steps]
    return [tensors(stack(step)) for step in steps]


def check_same(units: list[ControlUnit], make_step: MakeStep, pictures: Any = None) -> None:
    alone = runs(units, make_step, beside=False, pictures=pictures)
    together = runs(units, make_step, beside=True, pictures=pictures)
    for one, other in zip(alone, together, strict=True):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert (a - b).abs().max() <= 1e-5 * a.abs().max()


MASK = torch.linspace(0, 1, 64).expand(1, 1, 64, 64).contiguous()
CHANGES: dict[str, dict[str, Any]] = {
    "nothing": {},
    "weight": {"weight": 0.3},
    "mask": {"mask": MASK},
    "range": {"schedule": Schedule(start=0.5)},
    "mode": {"mode": ControlMode.CONTROL},
    "prompt": {"mode": ControlMode.PROMPT},
    "uncond": {"uncond_weight": 0.5},
    "blocks": {"block_weights": (1.0, 0.0, 0.5, 0.0, 0.0)},
    "reuse": {"reuse": Reuse(steps=(0, 2))},
    "hints": {"hint": torch.rand(2, 3, 64, 64)},
    "off": {"weight": 0.0},
}


@pytest.mark.parametrize("name", CHANGES)
def test_one_call_is_one_after_another(units: list[ControlUnit], make_step: MakeStep, name: str) -> None:
    units[1] = replace(units[1], **CHANGES[name])
    check_same(units, make_step)


@pytest.mark.parametrize("name", ["nothing", "mask", "range", "mode", "reuse", "hints"])
def test_rows_of_one_picture_stay_one_row(units: list[ControlUnit], make_step: MakeStep, name: str) -> None:
    units[1] = replace(units[1], **CHANGES[name])
    check_same(units, make_step, pictures=(0, 1, 0, 1))


def test_pooled_models_are_pooled_in_one_call(make_model: MakeModel, make_step: MakeStep, hint: Tensor) -> None:
    check_same([ControlUnit(model=make_model(seed, pool=True), hint=hint) for seed in (0, 1)], make_step)


def test_networks_are_not_called_by_themselves(units: list[ControlUnit], make_step: MakeStep) -> None:
    called: list[int] = []
    for unit in units:
        unit.model.network.middle_block_out.register_forward_hook(lambda *_: called.append(1))
    ControlStack(units, beside=True)(make_step())
    assert not called
    ControlStack(units)(make_step())
    assert len(called) == len(units)


def test_weights_are_held_once(units: list[ControlUnit], make_step: MakeStep) -> None:
    """Networks compute with views of what all compute with, and with the numbers that they had."""
    parts = [unit.model.network.zero_convs[1][0] for unit in units]
    before = [part.weight.clone() for part in parts]
    stack = ControlStack(units, beside=True)
    stack(make_step())
    assert len({part.weight.untyped_storage().data_ptr() for part in parts}) == 1
    assert all(part.weight.equal(kept) for part, kept in zip(parts, before, strict=True))


def test_who_stands_in_one_call(make_model: MakeModel, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other, pooled = make_model(0), make_model(1), make_model(2, pool=True)
    assert one.shape == other.shape != pooled.shape
    monkeypatch.setattr(controlnet, "LIGHT", 10)
    assert one.shape is None


def test_two_units_on_one_network_stay_a_batch_of_their_own(
    units: list[ControlUnit], make_step: MakeStep, hint: Tensor
) -> None:
    check_same([*units, ControlUnit(model=units[0].model, hint=hint)], make_step)


class Recording(ControlNetModel):
    """Remembers what it was given of the hints at each step."""

    def __call__(
        self, step: Step, prepared: Prepared, prompt: Prompt, points: Collection[Point]
    ) -> Iterator[tuple[Point, Tensor]]:
        self.given = [*getattr(self, "given", []), prepared]
        return super().__call__(step, prepared, prompt, points)


def test_hints_of_a_group_are_put_together_once(make_model: MakeModel, make_step: MakeStep, hint: Tensor) -> None:
    """Units on one network are one batch at each step; its features are those of the first step."""
    model = Recording(make_model(0).network, name="recording")
    stack = ControlStack([ControlUnit(model=model, hint=hint), ControlUnit(model=model, hint=hint.flip(-1))])
    for index in range(STEPS):
        stack(make_step(index, STEPS))
    first, *later = model.given
    assert len(later) == STEPS - 1
    assert all(one is other for prepared in later for one, other in zip(prepared, first, strict=True))
