"""Reuse across steps: what is computed, what is added again, and what is never shared."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from controlstack.core.control import ControlModel, Prepared, Prompt
from controlstack.core.errors import UnitError
from controlstack.core.firing import Firing
from controlstack.core.network.base import Base
from controlstack.core.network.effects import Shift
from controlstack.core.network.points import PROMPT, Point, skip, stream
from controlstack.core.reuse.said import OFF, Extent, Level, Reuse, scheduled
from controlstack.core.schedule import Keyframe, RangeBasis, Schedule, progress_at
from controlstack.core.stack import ControlStack
from controlstack.core.step import Step, Window
from controlstack.core.unit import ControlMode, ControlUnit
from controlstack.models.families.controlnet.config import Block, ControlNetConfig
from controlstack.models.families.controlnet.model import ControlNetModel
from torch import Tensor

MakeModel = Callable[..., ControlNetModel]
MakeStep = Callable[..., Step]
COUNT = 6
DEEP = ControlNetConfig(
    channels=32,
    blocks=(Block(32, 1), Block(32, down=True), Block(64, 1), Block(64, down=True), Block(64, 1)),
    middle_depth=1,
    context=16,
    heads=4,
    groups=8,
)
CONTEXT = torch.randn(4, 5, 16, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def steps(make_step: MakeStep) -> list[Step]:
    """A run whose latents and times change, with one prompt."""
    return [
        replace(make_step(index, COUNT, seed=index), steps=COUNT, context=CONTEXT, pictures=(0, 1, 0, 1))
        for index in range(COUNT)
    ]


def run(stack: ControlStack, steps: list[Step]) -> list[list[Tensor]]:
    """What a stack adds at each step, point by point."""
    return [[tensor for _, tensor in stack(step).tensors()] for step in steps]


def points(stack: ControlStack, steps: list[Step]) -> list[dict[Point, Tensor]]:
    """What a stack adds at each step, by point."""
    return [dict(stack(step).tensors()) for step in steps]


def assert_same(one: list[Tensor], other: list[Tensor]) -> None:
    assert len(one) == len(other) > 0
    assert all(a.equal(b) for a, b in zip(one, other, strict=True))


def assert_close(one: list[Tensor], other: list[Tensor]) -> None:
    assert len(one) == len(other) > 0
    for a, b in zip(one, other, strict=True):
        assert (a - b).abs().max() <= 1e-5 * b.abs().max()


def differ(one: list[Tensor], other: list[Tensor]) -> bool:
    return any((a - b).abs().max() > 1e-3 * b.abs().max() for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("reuse", [OFF, Reuse(steps=tuple(range(COUNT))), Reuse(change=0.0)], ids=str)
def test_computing_every_step_is_the_exact_unit_bit_for_bit(
    model: ControlNetModel, steps: list[Step], hint: Tensor, reuse: Reuse
) -> None:
    exact = run(ControlStack([ControlUnit(model=model, hint=hint, weight=0.7)]), steps)
    stack = ControlStack([ControlUnit(model=model, hint=hint, weight=0.7, reuse=reuse)])
    for one, other in zip(run(stack, steps), exact, strict=True):
        assert_same(one, other)
    assert stack.firings() == (Firing(COUNT, COUNT),)
    assert stack.firings()[0].remark == ""


def test_a_step_that_is_not_computed_continues_the_line_through_the_last_two(
    model: ControlNetModel, calls: dict[str, int], steps: list[Step], hint: Tensor
) -> None:
    exact = run(ControlStack([ControlUnit(model=model, hint=hint, weight=0.7)]), steps)
    stack = ControlStack([ControlUnit(model=model, hint=hint, weight=0.7, reuse=Reuse(steps=(0, 2, 3)))])
    before = calls["trunk"]
    found = run(stack, steps)
    assert calls["trunk"] - before == 3
    for index in (0, 2, 3):
        assert_same(found[index], exact[index])
    assert_same(found[1], exact[0])  # one set alone stays as it is
    wanted = [b + (b - a) for a, b in zip(exact[2], exact[3], strict=True)]  # steps are equally far from each other
    assert_close(found[4], wanted)
    assert_same(found[5], found[4])  # no further than from the one to the other
    assert stack.firings() == (Firing(6, 6, reused=3),)
    assert stack.firings()[0].remark == " (ran on 3 of 6, reused on 3)"


def test_a_shallow_step_computes_the_first_blocks_and_continues_the_deep_ones(
    make_model: MakeModel, steps: list[Step], hint: Tensor
) -> None:
    model = make_model(config=DEEP)
    assert model.shallow == tuple(skip(i) for i in range(4))
    middle: list[int] = []
    model.network.middle_block_out.register_forward_hook(lambda *_: middle.append(1))
    unit = ControlUnit(model=model, hint=hint, weight=0.7)
    exact = points(ControlStack([unit]), steps)
    middle.clear()
    stack = ControlStack([replace(unit, reuse=Reuse(steps=(0, 2, 4, 5), shallow=frozenset({4, 5})))])
    found = points(stack, steps)
    assert len(middle) == 2
    for index in (4, 5):
        assert all(found[index][point].equal(exact[index][point]) for point in model.shallow)
    for point in set(model.points) - set(model.shallow):
        line = exact[2][point] * 2 - exact[0][point]
        assert (found[4][point] - line).abs().max() <= 1e-5 * line.abs().max()
        assert found[5][point].equal(found[4][point])  # no further than from the one to the other
    assert stack.firings() == (Firing(6, 6, reused=2, in_part=2),)
    assert stack.firings()[0].remark == " (ran on 4 of 6, 2 of them in part, reused on 2)"


def test_a_model_without_shallow_blocks_computes_all_of_them(
    model: ControlNetModel, calls: dict[str, int], steps: list[Step], hint: Tensor
) -> None:
    assert model.shallow == ()
    said = ControlUnit(model=model, hint=hint, reuse=Reuse(steps=(0, 2), shallow=frozenset({2})))
    run(stack := ControlStack([said]), steps)
    assert (calls["trunk"], calls["middle"]) == (2, 2)
    assert stack.firings() == (Firing(6, 6, reused=4),)


def test_a_shallow_step_at_which_nothing_is_kept_computes_all_blocks(
    make_model: MakeModel, steps: list[Step], hint: Tensor
) -> None:
    unit = ControlUnit(model=make_model(config=DEEP), hint=hint, schedule=Schedule(start=0.5))
    exact = run(ControlStack([unit]), steps)
    said = replace(unit, reuse=Reuse(steps=(0, 3), shallow=frozenset({3})))
    assert_same(run(ControlStack([said]), steps)[3], exact[3])


def test_a_unit_of_shallow_blocks_alone_runs_whole_at_its_shallow_steps(
    make_model: MakeModel, steps: list[Step], hint: Tensor
) -> None:
    unit = ControlUnit(model=make_model(config=DEEP), hint=hint, block_weights=(1.0, 0.5, *(0.0,) * 5))
    exact = run(ControlStack([unit]), steps)
    stack = ControlStack([replace(unit, reuse=Reuse(steps=(0, 3), shallow=frozenset({3})))])
    assert_same(run(stack, steps)[3], exact[3])
    assert stack.firings() == (Firing(6, 6, reused=4),)


def test_a_unit_of_deep_blocks_alone_runs_at_no_shallow_step(
    make_model: MakeModel, steps: list[Step], hint: Tensor
) -> None:
    unit = ControlUnit(model=make_model(config=DEEP), hint=hint, block_weights=(*(0.0,) * 6, 1.0))
    stack = ControlStack([replace(unit, reuse=Reuse(steps=(0, 3), shallow=frozenset({3})))])
    run(stack, steps)
    assert stack.firings() == (Firing(6, 6, reused=5),)


def test_mask_weight_and_rows_are_those_of_the_moment(model: ControlNetModel, steps: list[Step], hint: Tensor) -> None:
    """Reuse of the only computed step is that step's residuals under the present settings."""
    mask = torch.zeros(1, 1, 64, 64)
    mask[..., :32] = 1
    said: dict[str, Any] = {
        "mask": mask,
        "uncond_weight": 0.25,
        "schedule": Schedule(keyframes=(Keyframe(at=0, weight=1), Keyframe(at=1, weight=0.1)), end=0.7),
    }
    found = run(ControlStack([ControlUnit(model=model, hint=hint, **said, reuse=Reuse(steps=(0,)))]), steps)
    frozen = [replace(step, x=steps[0].x, timestep=steps[0].timestep) for step in steps]
    wanted = run(ControlStack([ControlUnit(model=model, hint=hint, **said)]), frozen)
    for one, other in zip(found[:5], wanted[:5], strict=True):
        assert_same(one, other)
    assert found[5] == []
    assert differ(found[1], found[0])


def test_a_range_computes_where_it_begins(
    model: ControlNetModel, calls: dict[str, int], steps: list[Step], hint: Tensor
) -> None:
    unit = ControlUnit(model=model, hint=hint, schedule=Schedule(start=0.5), reuse=Reuse(steps=(0,)))
    stack = ControlStack([unit])
    exact = run(ControlStack([replace(unit, reuse=OFF)]), steps)
    before = calls["trunk"]
    found = run(stack, steps)
    assert calls["trunk"] - before == 1
    assert_same(found[3], exact[3])
    assert stack.firings() == (Firing(3, 6, reused=2),)


def test_the_cond_rows_alone_are_kept_alone(model: ControlNetModel, steps: list[Step], hint: Tensor) -> None:
    unit = ControlUnit(model=model, hint=hint, mode=ControlMode.CONTROL, reuse=Reuse(steps=(0,)))
    found = run(ControlStack([unit]), steps)
    assert_same(found[1], found[0])
    assert all(tensor[:2].abs().max() == 0 and tensor[2:].abs().max() > 0 for tensor in found[1])


def test_rows_in_calls_of_their_own_are_not_mixed_up(model: ControlNetModel, steps: list[Step], hint: Tensor) -> None:
    """Hosts may evaluate positive and negative rows one after the other, also two prompts for the same rows."""
    unit = ControlUnit(model=model, hint=hint, reuse=Reuse(steps=(0,)))
    halves = [step.rows((0, 1)) for step in steps], [step.rows((2, 3)) for step in steps]
    other = [replace(half, context=half.context.flip(0) * 2) for half in halves[1]]
    stack, wanted = ControlStack([unit]), [run(ControlStack([unit]), part) for part in (*halves, other)]
    for index in range(COUNT):
        for part, alone in zip((*halves, other), wanted, strict=True):
            assert_same(run(stack, [part[index]])[0], alone[index])


def test_a_changed_prompt_is_computed(
    model: ControlNetModel, calls: dict[str, int], steps: list[Step], hint: Tensor
) -> None:
    stack = ControlStack([ControlUnit(model=model, hint=hint, reuse=Reuse(steps=(0,)))])
    run(stack, [*steps[:2], replace(steps[2], context=steps[2].context.clone())])
    assert calls["trunk"] == 1  # another tensor of the same values
    run(stack, [replace(step, context=step.context * 2) for step in steps[3:]])
    assert calls["trunk"] == 2


@pytest.mark.parametrize(
    "change",
    [
        lambda step: replace(step, window=Window(canvas=(16, 16), top=8)),
        lambda step: replace(step, window=Window(canvas=(8, 8), frames=(2, 3))),
        lambda step: replace(step, x=step.x[..., :6]),
        lambda step: step.rows((2, 3)),
        lambda step: replace(step, pictures=(2, 3, 2, 3)),
        lambda step: replace(step, prompt="another"),
    ],
    ids=["another region", "other frames", "another size", "other rows", "other pictures", "another prompt"],
)
def test_what_is_shown_anew_is_computed(
    model: ControlNetModel, calls: dict[str, int], steps: list[Step], hint: Tensor, change: Callable[[Step], Step]
) -> None:
    stack = ControlStack([ControlUnit(model=model, hint=hint, reuse=Reuse(steps=(0,)))])
    run(stack, steps[:2])
    assert calls["trunk"] == 1
    run(stack, [change(step) for step in steps[2:4]])
    assert calls["trunk"] == 2


def test_a_second_picture_shares_nothing(
    model: ControlNetModel, calls: dict[str, int], steps: list[Step], hint: Tensor
) -> None:
    """Neither another run of one stack, also where the first was stopped, nor another stack."""
    unit = ControlUnit(model=model, hint=hint, reuse=Reuse(steps=(3,)))
    stack = ControlStack([unit])
    for factor, part in ((2, steps), (3, steps[:1]), (4, steps)):
        other = [replace(step, x=step.x * factor) for step in part]
        before = calls["trunk"]
        found = run(stack, other)
        assert calls["trunk"] - before == min(2, len(other))
        for one, fresh in zip(found, run(ControlStack([unit]), other), strict=True):
            assert_same(one, fresh)


def test_a_sampler_that_goes_back_to_more_noise_computes(
    model: ControlNetModel, calls: dict[str, int], steps: list[Step], hint: Tensor
) -> None:
    """It counts its steps on, but its latents jump."""
    back = replace(steps[4], progress=progress_at(4, COUNT, noise=0.1))
    stack = ControlStack([ControlUnit(model=model, hint=hint, reuse=Reuse(steps=(0,)))])
    run(stack, [*steps[:4], back])
    assert calls["trunk"] == 2


def test_several_evaluations_of_a_step_belong_to_it(
    model: ControlNetModel, calls: dict[str, int], steps: list[Step], hint: Tensor
) -> None:
    """Samplers of second order look ahead: both evaluations of a step are computed, or none."""
    ahead = [replace(step, x=step.x * 1.1, progress={**step.progress, **_ahead(step)}) for step in steps]
    both = [each for pair in zip(steps, ahead, strict=True) for each in pair]
    stack = ControlStack([ControlUnit(model=model, hint=hint, reuse=Reuse(steps=(0, 1)))])
    exact = run(ControlStack([ControlUnit(model=model, hint=hint)]), both)
    before = calls["trunk"]
    found = run(stack, both)
    assert calls["trunk"] - before == 4
    assert_same(found[3], exact[3])
    assert_close(found[4], exact[3])  # it looks from where the last one looked to
    assert stack.firings() == (Firing(6, 6, reused=4),)


def _ahead(step: Step) -> dict[RangeBasis, float]:
    return {RangeBasis.NOISE: step.progress[RangeBasis.NOISE] + 1 / COUNT}


def test_a_change_is_that_of_latents_or_noise_since_the_last_computed_step(
    model: ControlNetModel, steps: list[Step], hint: Tensor
) -> None:
    """Latents move by 0, 2, 4, 30 and 31 percent; the noise by a sixth of its schedule in the end."""
    places = ((1, 0), (1.02, 0), (1.04, 0), (1.3, 0), (1.31, 0), (1.31, 0.2))
    moved = [
        replace(steps[0], x=steps[0].x * k, progress=progress_at(i, COUNT, noise=noise))
        for i, (k, noise) in enumerate(places)
    ]
    counts = {}
    for change in (0.0, 0.03, 0.1, 1.0):
        seen: list[int] = []
        network = model.network.input_blocks[0]
        handle = network[0].register_forward_hook(lambda *_, seen=seen: seen.append(1))  # type: ignore[index]
        run(ControlStack([ControlUnit(model=model, hint=hint, reuse=Reuse(change=change))]), moved)
        handle.remove()
        counts[change] = len(seen)
    assert counts == {0.0: 6, 0.03: 4, 0.1: 3, 1.0: 1}


def test_units_on_one_network_reuse_each_for_itself(make_model: MakeModel, steps: list[Step]) -> None:
    model, other = make_model(0), make_model(1)
    units = [
        ControlUnit(model=each, hint=torch.rand(1, 3, 64, 64), weight=weight, reuse=reuse)
        for each, weight, reuse in (
            (model, 0.7, Reuse(steps=(0, 3))), (other, 0.5, OFF), (model, -0.3, OFF), (model, 0.4, Reuse(steps=(0, 2))),
        )
    ]  # fmt: skip
    stack = ControlStack(units)
    alone = [run(ControlStack([unit]), steps) for unit in units]
    for index, found in enumerate(run(stack, steps)):
        wanted = [torch.stack(parts).sum(0) for parts in zip(*(part[index] for part in alone), strict=True)]
        for one, whole in zip(found, wanted, strict=True):
            assert (one - whole).abs().max() <= 1e-4 * whole.abs().max()
    assert [firing.reused for firing in stack.firings()] == [4, 0, 0, 4]


def test_memory_is_two_sets_at_most_and_none_after_the_run(
    model: ControlNetModel, steps: list[Step], hint: Tensor
) -> None:
    stack = ControlStack([ControlUnit(model=model, hint=hint, reuse=Reuse(steps=(0, 1, 2, 3)))])
    one = sum(tensor.numel() * 4 for _, tensor in stack(steps[0]).tensors())
    held = stack._residuals
    assert held.bytes == one
    run(stack, steps[1:4])
    assert held.bytes == 2 * one
    run(stack, [step.rows((0, 1)) for step in steps[4:]])  # the host lays its rows out otherwise from here on
    assert held.bytes == one // 2
    stack.close()
    assert held.bytes == 0


def test_an_error_in_the_middle_keeps_nothing_of_that_step(
    model: ControlNetModel, steps: list[Step], hint: Tensor
) -> None:
    stack = ControlStack([ControlUnit(model=model, hint=hint, reuse=Reuse(steps=(0,)))])
    handle = model.network.middle_block_out.register_forward_hook(_fail)
    with pytest.raises(RuntimeError, match="no memory"):
        stack(steps[0])
    handle.remove()
    assert stack._residuals.bytes == 0


def _fail(*_: object) -> None:
    raise RuntimeError("no memory")


class Other(ControlModel):
    """A control that does something else than add residuals."""

    name, network, base, soft_weights = "other", None, Base(), (1.0,)

    def __init__(self, point: Point, effect: Tensor | Shift) -> None:
        self.points, self._effect = (point,), effect

    def __call__(
        self, step: Step, prepared: Prepared, prompt: Prompt, points: Collection[Point]
    ) -> Iterator[tuple[Point, Tensor | Shift]]:
        yield self.points[0], self._effect


@pytest.mark.parametrize(
    "model",
    [Other(stream(0), Shift(lambda h: h)), Other(PROMPT, torch.ones(4, 2, 16)), Other(skip(1), Shift(lambda h: h))],
    ids=["shift", "tokens", "shift of a skip"],
)
def test_what_adds_no_residuals_says_so_and_runs_exactly(model: Other, steps: list[Step], hint: Tensor) -> None:
    stack = ControlStack([ControlUnit(model=model, hint=hint, reuse=Reuse(level=Level.STRONG))])
    for step in steps:
        assert stack(step)
    assert (stack.firings()[0].fired, stack.firings()[0].reused) == (6, 0)
    assert stack.firings()[0].remark == " (reused nothing: its model does not only add residuals)"


def test_a_sampler_without_steps_says_so_and_runs_exactly(
    model: ControlNetModel, steps: list[Step], hint: Tensor
) -> None:
    unknown = [replace(step, steps=None) for step in steps]
    exact = run(ControlStack([ControlUnit(model=model, hint=hint)]), unknown)
    stack = ControlStack([ControlUnit(model=model, hint=hint, reuse=Reuse(level=Level.STRONG))])
    for one, other in zip(run(stack, unknown), exact, strict=True):
        assert_same(one, other)
    assert stack.firings()[0].remark == " (reused nothing: the sampler does not say which step it is at)"


@pytest.mark.parametrize("level", Level)
@pytest.mark.parametrize("count", [1, 2, 3, 5, 10, 20, 30, 50, 100])
def test_levels_fit_every_number_of_steps(level: Level, count: int) -> None:
    steps = set(computed(level, count))
    assert {0} <= steps <= set(range(count))
    if count >= 10:
        assert len(steps) < count
        assert len(computed(Level.STRONG, count)) < len(computed(Level.LIGHT, count))


@pytest.mark.parametrize(
    ("count", "light", "strong"), [(1, 1, 1), (4, 4, 4), (6, 6, 6), (8, 8, 6), (10, 8, 6), (20, 12, 8), (30, 18, 12)]
)
def test_a_short_run_computes_enough_of_its_steps(count: int, light: int, strong: int) -> None:
    """From 20 steps on the shares decide; a run of ten steps would lose obedience with four computed ones."""
    assert (len(computed(Level.LIGHT, count)), len(computed(Level.STRONG, count))) == (light, strong)


def test_computed_steps_are_the_nearest_to_even_distances() -> None:
    """In a run of ten steps the second one is computed with light: the picture's layout is drawn there."""
    assert computed(Level.STRONG, 20) == (0, 3, 5, 8, 10, 13, 15, 18)
    assert computed(Level.LIGHT, 10) == (0, 1, 3, 4, 5, 6, 8, 9)


def test_every_second_computed_step_of_a_level_is_shallow_where_steps_are_left_out() -> None:
    extents = [Reuse(level=Level.STRONG).extent(index, 20) for index in range(20)]
    assert [index for index, extent in enumerate(extents) if extent is Extent.WHOLE] == [0, 5, 10, 15]
    assert [index for index, extent in enumerate(extents) if extent is Extent.SHALLOW] == [3, 8, 13, 18]
    assert {Reuse(level=Level.LIGHT).extent(index, 8) for index in range(8)} == {Extent.WHOLE}


def computed(level: Level, count: int) -> tuple[int, ...]:
    steps = scheduled(level, count).steps
    assert steps is not None
    return steps


@pytest.mark.parametrize(
    "said",
    [
        {"change": -0.1},
        {"change": 1.5},
        {"change": float("nan")},
        {"steps": ()},
        {"steps": (2, 1)},
        {"steps": (1, 1)},
        {"steps": (-1, 0)},
        {"steps": (0, 10_000)},
        {"level": Level.LIGHT, "change": 0.1},
        {"steps": (0, 2), "shallow": frozenset({1})},
        {"shallow": frozenset({1})},
    ],
    ids=str,
)
def test_bad_settings_are_refused(said: dict[str, Any]) -> None:
    with pytest.raises(UnitError, match="reuse"):
        Reuse(**said)
