"""ControlLLLite against its arithmetic, written by hand on the projections of diffusers' U-Nets."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from controlstack.core.errors import DamagedModelError, HintError, IncompatibleModelError
from controlstack.core.network.attach import Patches, attach
from controlstack.core.stack import ControlStack
from controlstack.core.unit import ControlMode, ControlUnit
from controlstack.models.registry import REGISTRY, inspect, load_control_model
from controlstack.pipelines.attached import locate_in
from diffusers import UNet2DConditionModel
from families import random_layer
from oracle import step_of
from sparse_files import write_sparse
from tiny_networks import CONFIGS, UP
from torch import Tensor

TOLERANCE = 1e-5
Save = Callable[..., Path]
State = dict[str, Tensor]
STRIDES = {1: (4, 2), 2: (4, 4), 3: (4, 4, 2)}
# (name of the module in the file, its projection in the tiny SDXL U-Net, width, depth of its embedding)
PLACES = [
    ("input_blocks_4_1_transformer_blocks_0_attn1_to_q", "down_blocks.1.attentions.0", 0, "attn1.to_q", 64, 2),
    ("input_blocks_4_1_transformer_blocks_1_attn1_to_k", "down_blocks.1.attentions.0", 1, "attn1.to_k", 64, 2),
    ("input_blocks_5_1_transformer_blocks_1_attn1_to_v", "down_blocks.1.attentions.1", 1, "attn1.to_v", 64, 2),
    ("input_blocks_7_1_transformer_blocks_2_attn2_to_q", "down_blocks.2.attentions.0", 2, "attn2.to_q", 64, 3),
    ("middle_block_1_transformer_blocks_0_attn1_to_q", "mid_block.attentions.0", 0, "attn1.to_q", 64, 3),
]


def module(name: str, width: int, depth: int, *, embedding: int = 6, mlp: int = 5, seed: int = 0) -> State:
    """The weights of one module of a file."""
    generator = torch.Generator().manual_seed(seed)
    half, strides = embedding // 2, STRIDES[depth]
    channels = (3, *(half,) * (len(strides) - 1), embedding)
    shapes: dict[str, tuple[int, ...]] = {}
    for i, stride in enumerate(strides):
        shapes |= {f"conditioning1.{2 * i}.weight": (channels[i + 1], channels[i], stride, stride)}
        shapes |= {f"conditioning1.{2 * i}.bias": (channels[i + 1],)}
    for layer, out, inner in (("down", mlp, width), ("mid", mlp, mlp + embedding), ("up", width, mlp)):
        shapes |= {f"{layer}.0.weight": (out, inner), f"{layer}.0.bias": (out,)}
    return {
        f"lllite_unet_{name}.{key}": torch.randn(shape, generator=generator) * (1.5 / math.prod(shape[1:]) ** 0.5)
        for key, shape in shapes.items()
    }


def whole() -> State:
    state: State = {}
    for seed, (name, _, _, _, width, depth) in enumerate(PLACES):
        state |= module(name, width, depth, seed=seed)
    return state


def added(state: State, name: str, depth: int, hint: Tensor, x: Tensor) -> Tensor:
    """What kohya's `LLLiteModule.forward` adds."""
    own = {key.removeprefix(f"lllite_unet_{name}."): each for key, each in state.items()}
    e = hint * 2 - 1
    for i, stride in enumerate(STRIDES[depth]):
        e = torch.conv2d(
            e.relu() if i else e, own[f"conditioning1.{2 * i}.weight"], own[f"conditioning1.{2 * i}.bias"], stride
        )
    e = e.flatten(2).transpose(1, 2).expand(len(x), -1, -1)
    h = (x @ own["down.0.weight"].T + own["down.0.bias"]).relu()
    h = (torch.cat([e, h], dim=2) @ own["mid.0.weight"].T + own["mid.0.bias"]).relu()
    return h @ own["up.0.weight"].T + own["up.0.bias"]


@pytest.fixture(scope="module")
def unet() -> Any:
    config = {**CONFIGS["SDXL"], "attention_head_dim": 4}
    return random_layer(UNet2DConditionModel(sample_size=16, up_block_types=UP["SDXL"], **config), 0, scale=1.0)


@pytest.fixture
def hint() -> Tensor:
    return torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(3))


def drawn(unet: Any, unit: ControlUnit | None) -> Tensor:
    step, more = step_of(unet)
    with Patches() as patches, torch.no_grad():
        attach(patches, ControlStack([] if unit is None else [unit])(step), locate_in(unet))
        return unet(step.x, step.timestep, step.context, **more).sample


def by_hand(unet: Any, state: State, hint: Tensor, weight: float, rows: Tensor | None = None) -> Tensor:
    """The U-Net whose projections read x + weight * what is added."""
    step, more = step_of(unet)
    hooks = []
    for name, path, depth_at, projection, _, depth in PLACES:
        layer = unet.get_submodule(f"{path}.transformer_blocks.{depth_at}.{projection}")

        def before(_: Any, args: Any, name: str = name, depth: int = depth) -> Any:
            on = weight if rows is None else weight * rows[:, None, None]
            return (args[0] + on * added(state, name, depth, hint, args[0]), *args[1:])

        hooks.append(layer.register_forward_pre_hook(before))
    with torch.no_grad():
        answer = unet(step.x, step.timestep, step.context, **more).sample
    for hook in hooks:
        hook.remove()
    return answer


def test_it_equals_its_arithmetic(unet: Any, save: Save, hint: Tensor) -> None:
    state = whole()
    model = load_control_model(save(state))
    assert len(model.points) == len(PLACES)
    expected, plain = by_hand(unet, state, hint, 0.7), drawn(unet, None)
    ours = drawn(unet, ControlUnit(model=model, hint=hint, weight=0.7))
    assert (ours - expected).abs().max() <= TOLERANCE * expected.abs().max()
    assert (expected - plain).abs().max() > 1e-2 * plain.abs().max()
    assert drawn(unet, None).equal(plain)


def test_cond_rows_and_a_hint_for_each_picture(unet: Any, save: Save, hint: Tensor) -> None:
    state = whole()
    hints = torch.cat([hint, hint.flip(-1)])
    unit = ControlUnit(model=load_control_model(save(state)), hint=hints, mode=ControlMode.CONTROL)
    cond = torch.tensor([0.0, 0.0, 1.0, 1.0])
    expected = by_hand(unet, state, hints.repeat(2, 1, 1, 1), 1.0, cond)
    assert (drawn(unet, unit) - expected).abs().max() <= TOLERANCE * expected.abs().max()


def test_the_hint_is_embedded_once(unet: Any, save: Save, hint: Tensor) -> None:
    model: Any = load_control_model(save(whole()))
    calls: list[int] = []
    for each in model.network.children():
        each.conditioning1.register_forward_hook(lambda *_: calls.append(1))
    stack = ControlStack([ControlUnit(model=model, hint=hint)])
    for _ in range(3):
        stack(step_of(unet)[0])
    assert len(calls) == len(PLACES)


def test_sides_that_are_not_whole_tokens(save: Save) -> None:
    model = load_control_model(save(whole()))
    prepared = model.prepare(torch.rand(1, 3, 8 * 13, 8 * 9))
    tokens = {2: 7 * 5, 3: 4 * 3}
    assert [each.shape[1] for each in prepared] == [tokens[depth] for *_, depth in PLACES]


def test_what_does_not_fit_is_said(unet: Any, save: Save, hint: Tensor) -> None:
    model: Any = load_control_model(save(whole()))
    (step, _), unit = step_of(unet), ControlUnit(model=model, hint=hint)
    shift = ControlStack([unit])(step).shifts[model.points[0]]
    with pytest.raises(IncompatibleModelError, match="shifts 64 channels where the base model has 32"):
        shift(torch.zeros(4, 64, 32))
    with pytest.raises(HintError, match="has 64 tokens of the hint for 16 of the picture"):
        shift(torch.zeros(4, 16, 64))
    small = replace(step, x=step.x[..., :8, :8])
    assert ControlStack([unit])(small).shifts[model.points[0]](torch.randn(4, 16, 64)).abs().max() > 0


def test_a_module_of_no_place_is_damage(save: Save) -> None:
    state = whole() | {"lllite_unet_somewhere_1.down.0.weight": torch.ones(5, 64)}
    with pytest.raises(DamagedModelError, match="names no projection of a U-Net's attention"):
        load_control_model(save(state))
    missing = whole()
    del missing[f"lllite_unet_{PLACES[0][0]}.up.0.bias"]
    with pytest.raises(DamagedModelError, match="lacks 1 weights"):
        load_control_model(save(missing))


XL = {4: (640, 2), 5: (640, 2), 7: (1280, 10), 8: (1280, 10)}  # of SDXL's encoder: width, transformer blocks


def test_a_full_size_file_is_recognised(tmp_path: Path) -> None:
    """kohya's: self-attention's three inputs and cross-attention's queries of encoder and middle."""
    blocks = {f"input_blocks_{i}_1": each for i, each in XL.items()} | {"middle_block_1": (1280, 10)}
    shapes: dict[str, tuple[int, ...]] = {}
    for block, (width, count) in blocks.items():
        for depth in range(count):
            for end in ("attn1_to_q", "attn1_to_k", "attn1_to_v", "attn2_to_q"):
                name = f"{block}_transformer_blocks_{depth}_{end}"
                state = module(name, width, 2 if width == 640 else 3, embedding=32, mlp=64)
                shapes |= {key: tuple(each.shape) for key, each in state.items()}
    assert [family.id for family in REGISTRY if family.detect(shapes)] == ["lllite"]
    told = inspect(write_sparse(tmp_path / "canny.safetensors", shapes))
    assert (told.family, told.base) == ("ControlLLLite", "SDXL")
    assert (told.missing, told.misshapen, told.unexpected) == ((), (), ())
