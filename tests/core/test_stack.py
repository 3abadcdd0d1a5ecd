"""What a stack computes, and what it does not compute."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from controlstack.core.control import ControlModel
from controlstack.core.errors import HintError, ScheduleError, UnitError
from controlstack.core.network.effects import Accumulator, Effect, Effects, Watch
from controlstack.core.network.points import MIDDLE, PROMPT, Block, Part, Point, skip
from controlstack.core.resize import ResizeMode
from controlstack.core.schedule import Keyframe, Schedule
from controlstack.core.stack import ControlStack
from controlstack.core.step import Step, Window
from controlstack.core.unit import ControlMode, ControlUnit
from controlstack.models.families.controlnet.config import ControlNetConfig, ControlNetSettings
from controlstack.models.families.controlnet.model import ControlNetModel
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

MakeModel = Callable[..., ControlNetModel]
MakeStep = Callable[..., Step]
Calls = dict[str, int]


class CountOperations(TorchDispatchMode):
    """Counts every tensor operation."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


def plain(model: ControlNetModel, step: Step, hint: Tensor) -> list[Tensor]:
    """All residuals of one network, computed without a stack."""
    with torch.no_grad():
        return model.network(step.x, step.timestep, hint, step.context)


def listed(stack: ControlStack, step: Step) -> list[Tensor]:
    """A stack's residuals in the order of `plain`."""
    residuals = stack(step)
    return [tensor for tensor in (*residuals.output, *residuals.middle) if tensor is not None]


def assert_close(a: list[Tensor], b: list[Tensor], tolerance: float = 1e-5) -> None:
    assert len(a) == len(b) > 0
    for one, other in zip(a, b, strict=True):
        assert one.shape == other.shape
        assert (one - other).abs().max() <= tolerance * other.abs().max()


def test_one_unit_of_weight_1_is_its_network(model: ControlNetModel, make_step: MakeStep, hint: Tensor) -> None:
    step = make_step()
    assert_close(listed(ControlStack([ControlUnit(model=model, hint=hint)]), step), plain(model, step, hint))


def test_a_stack_is_the_weighted_sum(make_model: MakeModel, make_step: MakeStep, hint: Tensor) -> None:
    models, weights, step = [make_model(seed) for seed in range(3)], (1.0, 0.5, -2.0), make_step()
    units = [ControlUnit(model=model, hint=hint, weight=w) for model, w in zip(models, weights, strict=True)]
    parts = [plain(model, step, hint) for model in models]
    total = [sum(w * part[i] for w, part in zip(weights, parts, strict=True)) for i in range(len(parts[0]))]
    assert_close(listed(ControlStack(units), step), total)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "settings",
    [
        {"weight": 0.0},
        {"schedule": Schedule(start=0.5)},
        {"schedule": Schedule(keyframes=(Keyframe(at=0.0, weight=0.0),))},
        {"mask": torch.zeros(1, 1, 64, 64)},
        {"block_weights": (0.0,) * 5},
    ],
    ids=["weight", "range", "keyframe", "mask", "blocks"],
)
def test_a_unit_that_cannot_act_costs_nothing(
    model: ControlNetModel, make_step: MakeStep, hint: Tensor, settings: dict[str, Any]
) -> None:
    stack, step = ControlStack([ControlUnit(model=model, hint=hint, **settings)]), make_step()
    with CountOperations() as operations:
        residuals = stack(step)
    assert not residuals
    assert operations.count == 0


def test_what_does_not_change_is_computed_once(
    model: ControlNetModel, calls: Calls, make_step: MakeStep, hint: Tensor
) -> None:
    stack, first = ControlStack([ControlUnit(model=model, hint=hint)]), make_step()
    for index in range(4):
        stack(replace(make_step(index), context=first.context))
    assert calls == {"hint": 1, "trunk": 4, "keys": 1, "middle": 4}


def test_the_prompt_is_known_by_its_token_or_by_the_tensor_itself(
    model: ControlNetModel, calls: Calls, make_step: MakeStep, hint: Tensor
) -> None:
    stack, step, token = ControlStack([ControlUnit(model=model, hint=hint)]), make_step(), object()
    stack(replace(step, prompt=token))
    stack(replace(step, prompt=token, context=step.context.clone()))
    assert calls["keys"] == 1
    stack(step)
    step.context.mul_(2)  # the same object with other values is another prompt
    changed = listed(stack, step)
    assert calls["keys"] == 3
    assert_close(changed, plain(model, step, hint))


def test_cold_and_warm_are_bit_identical(make_model: MakeModel, make_step: MakeStep) -> None:
    models = [make_model(0), make_model(1)]
    units = [ControlUnit(model=m, hint=torch.rand(1, 3, 64, 64), weight=0.7) for m in (*models, models[0])]
    warm, step = ControlStack(units), make_step()
    listed(warm, step)
    for one, other in zip(listed(warm, step), listed(ControlStack(units), step), strict=True):
        assert one.equal(other)


def test_cond_only_runs_the_cond_rows_alone(model: ControlNetModel, make_step: MakeStep, hint: Tensor) -> None:
    step, seen = make_step(), []
    model.network.input_blocks[0][0].register_forward_hook(  # type: ignore[index, union-attr]
        lambda _, inputs, __: seen.append(len(inputs[0]))
    )
    unit = ControlUnit(model=model, hint=hint, mode=ControlMode.CONTROL, weight=0.8)
    got = listed(ControlStack([unit]), step)
    assert seen == [2]
    count = len(model.points)
    for i, (tensor, full) in enumerate(zip(got, plain(model, step, hint), strict=True)):
        assert tensor[:2].abs().max() == 0
        expected = full[2:] * 0.8 * 0.825 ** (12 - i)
        assert (tensor[2:] - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert count == len(got)


def test_the_negative_prompt_may_be_weighed_less(model: ControlNetModel, make_step: MakeStep, hint: Tensor) -> None:
    """At a factor of 0 its rows are not computed; a mask and the weight count beside it."""
    step, full, seen = make_step(), plain(model, make_step(), hint), []
    model.network.input_blocks[0][0].register_forward_hook(  # type: ignore[index, union-attr]
        lambda _, inputs, __: seen.append(len(inputs[0]))
    )
    for factor in (0.25, 0.0):
        unit = ControlUnit(model=model, hint=hint, weight=0.8, uncond_weight=factor)
        for tensor, other in zip(listed(ControlStack([unit]), step), full, strict=True):
            wanted = (
                other * other.new_tensor([0.8 * (1 if cond else factor) for cond in step.cond])[:, None, None, None]
            )
            assert (tensor - wanted).abs().max() <= 1e-5 * other.abs().max()
    assert seen[-1] == sum(step.cond)


def test_rows_in_any_order_get_their_own_control(model: ControlNetModel, make_step: MakeStep, hint: Tensor) -> None:
    step = replace(make_step(), cond=(True, False, False, True))
    full = plain(model, step, hint)
    unit = ControlUnit(model=model, hint=hint, mode=ControlMode.CONTROL, block_weights=(1.0,) * 5)
    for tensor, other in zip(listed(ControlStack([unit]), step), full, strict=True):
        assert tensor[1:3].abs().max() == 0
        assert (tensor[[0, 3]] - other[[0, 3]]).abs().max() <= 1e-5 * other.abs().max()


def test_prompt_mode_softens_shallow_blocks(model: ControlNetModel, make_step: MakeStep, hint: Tensor) -> None:
    step = make_step()
    unit = ControlUnit(model=model, hint=hint, mode=ControlMode.PROMPT, weight=1.5)
    soft = [r * 1.5 * 0.825 ** (12 - i) for i, r in enumerate(plain(model, step, hint))]
    assert_close(listed(ControlStack([unit]), step), soft)


def test_block_weights_replace_the_soft_ones_and_stop_the_trunk(
    model: ControlNetModel, calls: Calls, make_step: MakeStep, hint: Tensor
) -> None:
    step, weights = make_step(), (1.0, 0.0, 0.5, 0.0, 0.0)
    unit = ControlUnit(model=model, hint=hint, mode=ControlMode.PROMPT, weight=2.0, block_weights=weights)
    residuals = ControlStack([unit])(step)
    assert calls["trunk"] == 1
    assert calls["middle"] == 0
    full = plain(model, step, hint)
    assert residuals.middle == ()
    assert residuals.output[1] is None
    assert_close([residuals.output[0], residuals.output[2]], [full[0] * 2.0, full[2]])  # type: ignore[list-item]


def test_units_on_one_network_are_one_call(
    model: ControlNetModel, calls: Calls, make_step: MakeStep, make_model: MakeModel
) -> None:
    hints, step, other = [torch.rand(1, 3, 64, 64) for _ in range(3)], make_step(), make_model(5)
    units = [ControlUnit(model=m, hint=h) for m, h in zip((model, other, model), hints, strict=True)]
    parts = [plain(unit.model, step, unit.hint) for unit in units]  # type: ignore[arg-type]
    before = calls["trunk"]
    got = listed(ControlStack(units), step)
    assert calls["trunk"] - before == 1
    assert_close(got, [sum(part[i] for part in parts) for i in range(len(got))])  # type: ignore[misc]


def test_hints_map_one_to_one_to_pictures(model: ControlNetModel, make_step: MakeStep) -> None:
    hints, step = torch.rand(2, 3, 64, 64), make_step()
    got = listed(ControlStack([ControlUnit(model=model, hint=hints)]), step)
    assert_close(got, plain(model, step, hints.repeat(2, 1, 1, 1)))


def test_hints_that_match_no_batch_are_refused(model: ControlNetModel, make_step: MakeStep) -> None:
    stack = ControlStack([ControlUnit(model=model, hint=torch.rand(3, 3, 64, 64))])
    with pytest.raises(HintError, match="3 hints for 4 rows"):
        stack(make_step())


def test_frames_choose_their_hints(model: ControlNetModel, make_step: MakeStep) -> None:
    hints = torch.rand(5, 3, 64, 64)
    step = replace(make_step(), window=Window(canvas=(8, 8), frames=(3, 1)))
    got = listed(ControlStack([ControlUnit(model=model, hint=hints)]), step)
    assert_close(got, plain(model, step, hints[[3, 1, 3, 1]]))


def test_a_window_gets_its_part_of_the_hint(model: ControlNetModel, make_step: MakeStep) -> None:
    hint = torch.rand(1, 3, 128, 192)
    step = replace(make_step(), window=Window(canvas=(16, 24), top=8, left=4))
    got = listed(ControlStack([ControlUnit(model=model, hint=hint)]), step)
    assert_close(got, plain(model, step, hint[..., 64:128, 32:96]))


def test_many_windows_are_kept_within_a_bound_and_one_picture_whole(
    make_model: MakeModel, make_step: MakeStep, monkeypatch: pytest.MonkeyPatch
) -> None:
    hint, mask = torch.rand(1, 3, 128, 128), torch.rand(1, 1, 128, 128)
    context = make_step().context
    places = [Window(canvas=(16, 16), top=top, left=left) for top in range(0, 9, 2) for left in range(0, 9, 2)]
    units = [ControlUnit(model=make_model(seed), hint=hint, mask=mask) for seed in range(2)]
    unbounded = ControlStack(units)
    monkeypatch.setattr("controlstack.core.memory.kept.HINTS_KEPT", 300_000)
    bounded = ControlStack(units)
    for index in range(2):
        for place in places:
            step = replace(make_step(index), window=place, context=context)
            for one, other in zip(listed(bounded, step), listed(unbounded, step), strict=True):
                assert one.equal(other)
    assert bounded._kept.bytes < 400_000 < 600_000 < unbounded._kept.bytes


def test_what_one_evaluation_uses_stays_however_large(
    model: ControlNetModel, calls: Calls, make_step: MakeStep, hint: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("controlstack.core.memory.kept.HINTS_KEPT", 1)
    stack = ControlStack([ControlUnit(model=model, hint=hint)])
    for index in range(3):
        stack(make_step(index))
    assert calls["hint"] == 1


def test_the_hint_is_fitted_to_the_picture(model: ControlNetModel, make_step: MakeStep) -> None:
    hint, step = torch.rand(1, 3, 64, 128), make_step()
    got = listed(ControlStack([ControlUnit(model=model, hint=hint, resize=ResizeMode.CROP)]), step)
    assert_close(got, plain(model, step, hint[..., 32:96]))


def test_another_size_in_the_same_run_prepares_the_hint_again(
    model: ControlNetModel, calls: Calls, make_step: MakeStep
) -> None:
    hint = torch.rand(1, 3, 128, 128)
    stack = ControlStack([ControlUnit(model=model, hint=hint)])
    stack(make_step())
    got = listed(stack, make_step(size=16))
    assert calls["hint"] == 2
    assert_close(got, plain(model, make_step(size=16), hint))


def test_a_mask_acts_where_it_is(model: ControlNetModel, make_step: MakeStep, hint: Tensor) -> None:
    mask = torch.zeros(1, 1, 64, 64)
    mask[..., :32] = 1.0
    step = make_step()
    for masked, full in zip(
        listed(ControlStack([ControlUnit(model=model, hint=hint, mask=mask)]), step),
        plain(model, step, hint),
        strict=True,
    ):
        half = full.shape[-1] // 2
        assert masked[..., half:].abs().max() == 0
        assert (masked[..., :half] - full[..., :half]).abs().max() <= 1e-5 * full.abs().max()


def test_masks_map_one_to_one_to_pictures(model: ControlNetModel, make_step: MakeStep, hint: Tensor) -> None:
    masks = torch.stack([torch.zeros(1, 64, 64), torch.ones(1, 64, 64)])
    for tensor in listed(ControlStack([ControlUnit(model=model, hint=hint, mask=masks)]), make_step()):
        assert tensor[[0, 2]].abs().max() == 0
        assert tensor[[1, 3]].abs().min(0).values.max() > 0


def test_pooling_averages_over_the_picture_on_the_cond_rows(
    make_model: MakeModel, make_step: MakeStep, hint: Tensor
) -> None:
    pooled, step = make_model(0, pool=True), make_step()
    full = plain(pooled, step, hint)
    for tensor, other in zip(listed(ControlStack([ControlUnit(model=pooled, hint=hint)]), step), full, strict=True):
        assert tensor[:2].abs().max() == 0
        expected = other[2:].mean((2, 3), keepdim=True).expand_as(other[2:])
        assert (tensor[2:] - expected).abs().max() <= 1e-5 * other.abs().max()


def test_only_middle_yields_the_middle(make_step: MakeStep, hint: Tensor, model: ControlNetModel) -> None:
    config = replace(model.network.config, only_middle=True)
    network = type(model.network)(config).requires_grad_(False)
    network.load_state_dict(model.network.state_dict())
    single = ControlNetModel(network, name="only the middle")
    residuals = ControlStack([ControlUnit(model=single, hint=hint)])(make_step())
    assert residuals.output == ()
    assert_close([residuals.middle[0]], plain(model, make_step(), hint)[-1:])  # type: ignore[list-item]


def test_keyframes_scale_the_weight(model: ControlNetModel, make_step: MakeStep, hint: Tensor) -> None:
    schedule = Schedule(keyframes=(Keyframe(at=0.0, weight=0.0), Keyframe(at=1.0, weight=1.0)))
    stack, step = ControlStack([ControlUnit(model=model, hint=hint, schedule=schedule)]), make_step(1)
    assert_close(listed(stack, step), [r * 0.25 for r in plain(model, step, hint)])


def test_firings_count_steps_not_evaluations(model: ControlNetModel, make_step: MakeStep, hint: Tensor) -> None:
    units = [ControlUnit(model=model, hint=hint, schedule=Schedule(end=end)) for end in (1.0, 0.5, 0.0)]
    stack = ControlStack(units)
    for index in (0, 0, 1, 1, 2, 3):  # a sampler that evaluates some steps twice
        stack(make_step(index))
    assert [str(firing) for firing in stack.firings()] == ["4 of 4", "2 of 4", "0 of 4"]


def test_residuals_are_fresh_and_the_cache_is_safe_from_their_consumer(
    model: ControlNetModel, make_step: MakeStep, hint: Tensor
) -> None:
    stack, step = ControlStack([ControlUnit(model=model, hint=hint)]), make_step()
    first = listed(stack, step)
    copies = [tensor.clone() for tensor in first]
    for tensor in first:
        tensor.zero_()
    for again, copy in zip(listed(stack, step), copies, strict=True):
        assert again.equal(copy)


def test_half_precision_latents_get_half_precision_residuals(
    make_model: MakeModel, make_step: MakeStep, hint: Tensor
) -> None:
    step = make_step()
    half = replace(step, x=step.x.bfloat16(), context=step.context.bfloat16())
    got = listed(ControlStack([ControlUnit(model=make_model(), hint=hint)]), half)
    assert {tensor.dtype for tensor in got} == {torch.bfloat16}


def test_the_host_is_asked_for_each_network_and_may_interrupt(
    model: ControlNetModel, make_step: MakeStep, hint: Tensor
) -> None:
    class RecordingHost:
        def __init__(self) -> None:
            self.open: list[ControlModel] = []
            self.used = 0

        @contextmanager
        def ready(self, model: ControlModel) -> Iterator[None]:
            self.open.append(model)
            self.used += 1
            yield
            self.open.remove(model)

        def check_interrupt(self) -> None:
            if self.used == 2:
                raise KeyboardInterrupt

    host = RecordingHost()
    idle = ControlUnit(model=model, hint=hint, weight=0.0)
    stack = ControlStack([ControlUnit(model=model, hint=hint), idle], host)
    stack(make_step(0))
    stack(make_step(1))
    with pytest.raises(KeyboardInterrupt):
        stack(make_step(2))
    assert (host.used, host.open) == (2, [])


def test_a_control_that_looks_has_its_network_ready_and_no_gradients(
    make_model: MakeModel, make_step: MakeStep, hint: Tensor
) -> None:
    """What stands at a point is seen long after the control has been asked: a host may have moved its network away."""
    ready, seen = list[ControlModel](), list[tuple[bool, bool]]()

    class MovingHost:
        @contextmanager
        def ready(self, model: ControlModel) -> Iterator[None]:
            ready.append(model)
            yield
            ready.remove(model)

        def check_interrupt(self) -> None:
            return

    class Looking(ControlNetModel):
        def __call__(self, *_: Any) -> Iterator[tuple[Point, Effect]]:
            yield MIDDLE, Watch(lambda _: seen.append((bool(ready), torch.is_grad_enabled())))

    stack = ControlStack([ControlUnit(model=Looking(make_model().network, name="looks"), hint=hint)], MovingHost())
    shown = torch.randn(2, 3, 4, 4)
    assert not stack(make_step()).shifts[MIDDLE](shown).any()
    assert seen == [(True, False)] and not ready


def test_memory_of_another_unit_is_one_map_not_one_set(
    make_model: MakeModel, make_step: MakeStep, hint: Tensor
) -> None:
    """While a network computes a residual, none of those before it is alive any more."""
    import weakref

    model, alive, left = make_model(), weakref.WeakSet[Tensor](), []
    original = model.network.residuals

    def watch(*args: Any) -> Iterator[tuple[Point, Tensor]]:
        for slot, tensor in original(*args):
            alive.add(tensor)
            yield slot, tensor
            del tensor
            left.append(len(alive))

    model.network.residuals = watch  # type: ignore[method-assign]
    first = ControlUnit(model=make_model(1), hint=hint)
    listed(ControlStack([first, ControlUnit(model=model, hint=hint, mask=torch.rand(1, 1, 64, 64))]), make_step())
    assert left == [0] * len(model.points)


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"weight": float("nan")}, UnitError, "finite"),
        ({"block_weights": (1.0,)}, UnitError, "5 blocks, got 1"),
        ({"block_weights": (float("inf"),) * 5}, UnitError, "finite"),
        ({"hint": torch.full((1, 3, 8, 8), float("nan"))}, HintError, "NaN"),
        ({"hint": torch.rand(3, 8, 8)}, HintError, "got"),
        ({"hint": torch.rand(1, 4, 8, 8)}, HintError, "got"),
        ({"hint": torch.rand(1, 3, 0, 8)}, HintError, "got"),
        ({"mask": torch.rand(8, 8)}, HintError, "expected"),
        ({"mask": torch.full((1, 1, 8, 8), float("nan"))}, HintError, "NaN"),
    ],
)
def test_senseless_units_are_refused(
    model: ControlNetModel, hint: Tensor, settings: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        ControlUnit(**{"model": model, "hint": hint, **settings})


def test_slots_come_in_the_order_of_computation(model: ControlNetModel) -> None:
    assert model.points == (*(skip(i) for i in range(4)), MIDDLE)


def test_soft_weights_are_the_published_list_and_sdxl_gets_its_first_ten() -> None:
    from controlstack.models.families.controlnet.model import _soft_weights

    published = [0.0994, 0.1205, 0.1461, 0.1770, 0.2146, 0.2601, 0.3153, 0.3822, 0.4633, 0.5615, 0.6806, 0.825, 1.0]
    assert _soft_weights(13) == pytest.approx(published, abs=1e-4)
    assert _soft_weights(10) == pytest.approx(published[:10], abs=1e-4)


def test_schedule_errors_come_before_any_run(model: ControlNetModel, hint: Tensor) -> None:
    with pytest.raises(ScheduleError):
        ControlUnit(model=model, hint=hint, schedule=Schedule(start=0.9, end=0.1))


def test_the_config_is_read_back_from_shapes(model: ControlNetModel) -> None:
    shapes = {key: tuple(value.shape) for key, value in model.network.state_dict().items()}
    config = ControlNetConfig.from_shapes(shapes, ControlNetSettings(heads=4, norm_groups=8))
    assert config == model.network.config


def test_a_sum_begins_with_what_the_host_has_and_leaves_it_unchanged() -> None:
    given = Effects(output=(None, torch.full((1, 2, 2, 2), 0.5)), middle=(torch.ones(2, 2, 2, 2),))
    total = Accumulator(2, given)
    total.add(skip(1), torch.full((1, 2, 2, 2), 2.0), 0.25, (1,))
    found = total.effects()
    assert found.output[0] is None
    assert found.output[1] is not None
    assert found.output[1][:, 0, 0, 0].tolist() == [0.5, 1.0]
    assert found.middle[0] is given.middle[0]
    assert given.output[1] is not None
    assert given.output[1].tolist() == torch.full((1, 2, 2, 2), 0.5).tolist()


def test_tokens_that_the_host_has_stand_before_those_of_units() -> None:
    given = Effects(tokens=(torch.full((1, 2, 3), 5.0),))
    total = Accumulator(2, given)
    total.add(PROMPT, torch.ones(1, 1, 3), 0.5, (1,))
    (tokens,) = total.effects().tokens
    assert tokens is not None
    assert tokens[:, :, 0].tolist() == [[5, 5, 0], [5, 5, 0.5]]
    assert given.tokens[0] is not None and given.tokens[0].shape == (1, 2, 3)
    kept = Accumulator(2, given).effects().tokens[0]
    assert kept is not None and kept.equal(given.tokens[0])


@pytest.mark.parametrize(
    "point", [Point(Block.INPUT, 1, Part.ATTN1_OUT), Point(Block.MIDDLE, 0, Part.ATTN2_Q), Point(Block.OUTPUT, 2)]
)
def test_a_tensor_at_any_other_point_is_added_there(point: Point) -> None:
    total = Accumulator(2)
    total.add(point, torch.ones(1, 2, 3), 0.5, (1,))
    total.shift(point, lambda h: 2 * h)
    found = total.effects()
    assert found.input == found.middle == found.output == found.tokens == ()
    h = torch.ones(2, 2, 3)
    assert found.shifts[point](h)[:, 0, 0].tolist() == [2, 2.5]
