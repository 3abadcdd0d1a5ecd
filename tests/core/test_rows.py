"""Rows of one picture are one row until the prompt sets them apart, and only where they are the same indeed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from controlstack.core.network.rows import Twins, take_rows
from controlstack.core.stack import ControlStack
from controlstack.core.step import Step, Window
from controlstack.core.unit import ControlMode, ControlUnit
from controlstack.models.families.controlnet.config import Block, ControlNetConfig
from controlstack.models.families.controlnet.model import ControlNetModel
from torch import Tensor

MakeModel = Callable[..., ControlNetModel]
MakeStep = Callable[..., Step]
ROUNDING = 1e-5  # of the largest value: a batch of another size is summed in another order

PLAIN = {"channels": 32, "heads": 4, "groups": 8, "context": 16}
CONFIGS = {
    "prompt in the first block": ControlNetConfig(blocks=(Block(32, 1), Block(64, 1)), middle_depth=1, **PLAIN),
    "prompt in a late block, twice": ControlNetConfig(
        blocks=(Block(32), Block(32, down=True), Block(64, 2), Block(64, 1)), middle_depth=1, **PLAIN
    ),
    "prompt in the middle alone": ControlNetConfig(blocks=(Block(32), Block(64)), middle_depth=1, linear=True, **PLAIN),
    "no prompt": ControlNetConfig(blocks=(Block(32), Block(64)), middle_depth=0, **{**PLAIN, "context": None}),
}


@pytest.fixture
def twin_step(make_step: MakeStep) -> Callable[..., Step]:
    """A step of pictures whose rows come as whole blocks, each row with a prompt of its own."""

    def make(pictures: int = 1, chunks: int = 2, index: int = 0) -> Step:
        step = make_step(index, rows=pictures * chunks)
        return replace(step, x=step.x[:pictures].repeat(chunks, 1, 1, 1), pictures=tuple(range(pictures)) * chunks)

    return make


def listed(step: Step, *units: ControlUnit) -> list[Tensor]:
    residuals = ControlStack(units)(step)
    return [tensor for tensor in (*residuals.output, *residuals.middle) if tensor is not None]


def rows_of(layer: torch.nn.Module) -> list[int]:
    """The rows of every batch that a layer will see."""
    seen: list[int] = []
    layer.register_forward_pre_hook(lambda _module, args: seen.append(len(args[0])))
    return seen


def assert_close(some: Sequence[Tensor], others: Sequence[Tensor]) -> None:
    assert len(some) == len(others) > 0
    for one, other in zip(some, others, strict=True):
        assert one.shape == other.shape
        assert (one - other).abs().max() <= ROUNDING * other.abs().max()


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("pictures", [1, 2])
@pytest.mark.parametrize("chunks", [2, 3])
def test_the_numbers_are_those_of_all_rows(
    make_model: MakeModel, twin_step: MakeStep, hint: Tensor, name: str, pictures: int, chunks: int
) -> None:
    unit = ControlUnit(model=make_model(config=CONFIGS[name]), hint=hint)
    step = twin_step(pictures, chunks)
    assert_close(listed(step, unit), listed(replace(step, pictures=None), unit))


def test_each_picture_is_computed_once_until_its_prompts_differ(
    make_model: MakeModel, twin_step: MakeStep, hint: Tensor
) -> None:
    model = make_model(config=CONFIGS["prompt in a late block, twice"])
    names = ("1.0", "3.1.transformer_blocks.0.attn2.to_q", "3.1.transformer_blocks.0.ff", "4.0")
    seen = [rows_of(model.network.get_submodule(f"input_blocks.{name}")) for name in names]
    residuals = listed(twin_step(2, 2), ControlUnit(model=model, hint=hint))
    assert [len(residual) for residual in residuals] == [4] * 6
    assert seen == [[2], [2], [4], [4]]


def changed(tensor: Tensor) -> Tensor:
    """The last row is another one by the smallest of changes."""
    other = tensor.clone()
    other[-1].flatten()[-1:] += 1 if tensor.dtype == torch.int64 else 1e-4
    return other


@pytest.mark.parametrize("what", ["x", "timestep"])
def test_rows_that_another_extension_changed_keep_their_own(
    model: ControlNetModel, twin_step: MakeStep, hint: Tensor, what: str
) -> None:
    step = twin_step()
    step = replace(step, **{what: changed(getattr(step, what))})
    seen = rows_of(model.network.get_submodule("input_blocks.0.0"))
    unit = ControlUnit(model=model, hint=hint)
    for one, other in zip(listed(step, unit), listed(replace(step, pictures=None), unit), strict=True):
        assert one.equal(other)
    assert seen == [2, 2]


def test_values_that_are_no_numbers_stay_where_they_are(
    model: ControlNetModel, twin_step: MakeStep, hint: Tensor
) -> None:
    step = twin_step(2, 2)
    step.x[3] = float("nan")
    residuals = listed(step, ControlUnit(model=model, hint=hint))
    assert all(residual[:3].isfinite().all() for residual in residuals)


def test_hints_of_their_own_keep_pictures_apart(model: ControlNetModel, twin_step: MakeStep) -> None:
    step = twin_step(2, 2)
    step.x[:] = step.x[0]  # the pictures differ in nothing but their hints
    unit = ControlUnit(model=model, hint=torch.rand(2, 3, 64, 64))
    seen = rows_of(model.network.get_submodule("input_blocks.0.0"))
    assert_close(listed(replace(step, pictures=(0,) * 4), unit), listed(replace(step, pictures=None), unit))
    assert seen == [2, 4]


def test_frames_of_a_window_keep_pictures_apart(model: ControlNetModel, twin_step: MakeStep) -> None:
    step = replace(twin_step(2, 2), window=Window(canvas=(8, 8), frames=(2, 0)))
    step.x[:] = step.x[0]
    unit = ControlUnit(model=model, hint=torch.rand(3, 3, 64, 64))
    assert_close(listed(replace(step, pictures=(0,) * 4), unit), listed(replace(step, pictures=None), unit))


@pytest.mark.parametrize("mode", ControlMode)
@pytest.mark.parametrize("same_hint", [True, False])
def test_units_on_one_network_share_what_is_the_same(
    model: ControlNetModel, twin_step: MakeStep, hint: Tensor, mode: ControlMode, same_hint: bool
) -> None:
    other = hint if same_hint else hint.flip(-1)
    units = [ControlUnit(model=model, hint=each, mode=mode) for each in (hint, other)]
    step = twin_step(2, 2)
    seen = rows_of(model.network.get_submodule("input_blocks.0.0"))
    assert_close(listed(step, *units), listed(replace(step, pictures=None), *units))
    assert seen[0] == (2 if same_hint else 4)


def test_the_device_is_asked_once_a_step_and_never_for_idle_units(
    make_model: MakeModel, twin_step: MakeStep, hint: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    holds = Twins.hold_for
    monkeypatch.setattr(Twins, "hold_for", lambda self, *given: asked.append(1) or holds(self, *given))
    models = [make_model(seed) for seed in range(3)]
    stack = ControlStack([ControlUnit(model=model, hint=hint) for model in models])
    stack(twin_step(index=0))
    stack(twin_step(index=1))
    ControlStack([ControlUnit(model=models[0], hint=hint, weight=0.0)])(twin_step())
    assert len(asked) == 2


def test_vector_conditions_differ_from_the_first_block_on(
    make_model: MakeModel, twin_step: MakeStep, hint: Tensor
) -> None:
    config = replace(CONFIGS["prompt in the first block"], label=6)
    model = make_model(config=config)
    seen = rows_of(model.network.get_submodule("input_blocks.0.0"))
    listed(replace(twin_step(), y=torch.randn(2, 6)), ControlUnit(model=model, hint=hint))
    assert seen == [2]


def test_rows_keep_the_numbers_of_their_pictures(twin_step: MakeStep) -> None:
    assert twin_step(2, 2).rows((3, 1, 0)).pictures == (1, 1, 0)


def test_twins_narrow_and_widen() -> None:
    twins = Twins.of("abca")
    assert twins == Twins(first=(0, 1, 2), kind=(0, 1, 2, 0))
    assert Twins.of("abc") is None
    column = torch.tensor([5.0, 6.0, 7.0, 5.0])[:, None]
    assert twins.narrow(column).flatten().tolist() == [5.0, 6.0, 7.0]
    assert twins.widen(twins.narrow(column)).equal(column)
    assert twins.widen(column) is column
    assert twins.narrow(column[:1]).shape == (1, 1)


@pytest.mark.parametrize("rows", [(1, 2), (0, 1, 0, 1), (2, 0, 1), (1, 1, 1), (3,)])
def test_take_rows_takes_these_rows(rows: tuple[int, ...]) -> None:
    tensor = torch.rand(4, 2, 3)
    assert take_rows(tensor, rows).equal(tensor[list(rows)])
