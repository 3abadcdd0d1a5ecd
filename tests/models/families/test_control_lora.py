"""Control-LoRA against a ControlNet whose encoder's weights are W_base + up @ down, in diffusers' class."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any

import pytest
import torch
from controlstack.core.control import ControlModel
from controlstack.core.errors import DamagedModelError, HostError, IncompatibleModelError
from controlstack.core.host import PlainHost
from controlstack.core.network.base import BaseWeights, check_fits
from controlstack.core.stack import ControlStack
from controlstack.core.unit import ControlUnit
from controlstack.models.families.control_lora import ControlLoraModel
from controlstack.models.naming import to_diffusers, to_ldm
from controlstack.models.registry import REGISTRY, inspect, load_control_model
from controlstack.pipelines.attached import base_of
from diffusers import ControlNetModel, UNet2DConditionModel
from oracle import step_of
from sparse_files import write_sparse
from test_detection import CONTROLNETS, by_hand
from torch import Tensor

TOLERANCE = 1e-5
RANK = 3
HEADS = {"heads": "4"}
Save = Callable[..., Path]
State = dict[str, Tensor]


def is_low_rank(name: str, each: Any) -> bool:
    """Whether Stability's files hold a weight as two factors."""
    own = name.startswith(("input_hint_block.", "zero_convs.", "middle_block_out."))
    return not own and name.endswith(".weight") and len(each) > 1


def lora_of(theirs: ControlNetModel, *, norms: bool = True) -> State:
    """A file for this ControlNet, with random factors. norms: whether it holds what is no product."""
    generator = torch.Generator().manual_seed(5)
    file: State = {"lora_controlnet": torch.zeros(0)}
    for name, each in to_ldm(theirs.state_dict()).items():
        stem = name.removesuffix(".weight")
        if is_low_rank(name, each.shape):
            ones = (1,) * (each.ndim - 2)
            file[f"{stem}.up"] = torch.randn(len(each), RANK, *ones, generator=generator) * 0.1
            file[f"{stem}.down"] = torch.randn(RANK, *each.shape[1:], generator=generator) * 0.1
        elif norms or name.startswith(("input_hint_block.", "zero_convs.", "middle_block_out.")):
            file[name] = each
    return file


def merged(theirs: ControlNetModel, file: State, base: State) -> ControlNetModel:
    """The ControlNet that the formula of ComfyUI and refiners gives."""
    state = {**to_ldm(theirs.state_dict()), **{name: each for name, each in file.items() if "." in name}}
    whole = {name: each for name, each in state.items() if not name.endswith((".up", ".down"))}
    for name in whole:
        stem = name.removesuffix(".weight")
        if name not in file:
            whole[name] = base[name]
        if f"{stem}.up" in file and name.endswith(".weight"):
            up, down = file[f"{stem}.up"].flatten(1), file[f"{stem}.down"].flatten(1)
            whole[name] = base[name] + (up @ down).reshape(base[name].shape)
    made = ControlNetModel.from_config(theirs.config).eval()
    made.load_state_dict(to_diffusers(whole))
    return made


class BaseHost(PlainHost):
    """A host with a base network whose weights can be changed."""

    def __init__(self, state: State) -> None:
        self.state, self.key, self.asked = state, 0, [""]

    def follow(self, model: ControlModel) -> bool:
        def read(name: str) -> Tensor | None:
            self.asked.append(name)
            return self.state.get(name)

        key: Hashable = ("base", self.key)
        return model.follow(BaseWeights(read, key))


def check(stack: ControlStack, theirs: ControlNetModel, unet: Any, hint: Tensor) -> None:
    step, more = step_of(unet)
    residuals = stack(step)
    ours = [each for each in (*residuals.output, *residuals.middle) if each is not None]
    with torch.no_grad():
        skips, middle = theirs(step.x, step.timestep, step.context, hint, return_dict=False, **more)
    for one, other in zip(ours, (*skips, middle), strict=True):
        assert other.abs().max() > 0
        assert (one - other).abs().max() <= TOLERANCE * other.abs().max()


@pytest.mark.parametrize("norms", [True, False])
def test_it_equals_the_merged_controlnet(
    theirs: ControlNetModel, unet: UNet2DConditionModel, save: Save, norms: bool
) -> None:
    base, file = to_ldm(unet.state_dict()), lora_of(theirs, norms=True)
    if not norms:
        file = {name: each for name, each in file.items() if "norm" not in name and ".in_layers.0." not in name}
    model = load_control_model(save(file), settings=HEADS)
    hint = torch.rand(1, 3, 128, 128)
    stack = ControlStack([ControlUnit(model=model, hint=hint)], BaseHost(base))
    check(stack, merged(theirs, file, base), unet, hint)


def test_it_is_merged_once_and_again_when_the_base_changes(
    theirs: ControlNetModel, unet: UNet2DConditionModel, save: Save
) -> None:
    base, file = to_ldm(unet.state_dict()), lora_of(theirs)
    model, hint = load_control_model(save(file), settings=HEADS), torch.rand(1, 3, 128, 128)
    host = BaseHost(base)
    unit = ControlUnit(model=model, hint=hint)
    stack = ControlStack([unit, ControlUnit(model=model, hint=hint, weight=0.0)], host)
    check(stack, merged(theirs, file, base), unet, hint)
    asked = len(host.asked)
    check(stack, merged(theirs, file, base), unet, hint)
    check(ControlStack([unit], host), merged(theirs, file, base), unet, hint)
    assert len(host.asked) == asked > 1
    host.state = {name: each * 0.5 for name, each in base.items()}
    host.key = 1
    check(stack, merged(theirs, file, host.state), unet, hint)  # with the prompt's projections of the new weights
    assert len(host.asked) > asked


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float8_e4m3fn])
def test_a_base_in_few_bits(
    theirs: ControlNetModel, unet: UNet2DConditionModel, save: Save, stored: torch.dtype
) -> None:
    base, file = {name: each.to(stored) for name, each in to_ldm(unet.state_dict()).items()}, lora_of(theirs)
    model, hint = load_control_model(save(file), settings=HEADS), torch.rand(1, 3, 128, 128)
    wide = {name: each.float() for name, each in base.items()}
    check(ControlStack([ControlUnit(model=model, hint=hint)], BaseHost(base)), merged(theirs, file, wide), unet, hint)


def test_memory_is_that_of_one_controlnet(theirs: ControlNetModel, save: Save) -> None:
    model: Any = load_control_model(save(lora_of(theirs)), settings=HEADS)
    assert sum(each.numel() for each in model.network.parameters()) == sum(each.numel() for each in theirs.parameters())
    assert not list(model.network.buffers())


def test_a_base_for_inpainting_reads_more(theirs: ControlNetModel, unet: UNet2DConditionModel, save: Save) -> None:
    base, file = to_ldm(unet.state_dict()), lora_of(theirs)
    first = "input_blocks.0.0.weight"
    wide = {**base, first: torch.cat([base[first], torch.randn(32, 5, 3, 3)], dim=1)}
    model, hint = load_control_model(save(file), settings=HEADS), torch.rand(1, 3, 128, 128)
    check(ControlStack([ControlUnit(model=model, hint=hint)], BaseHost(wide)), merged(theirs, file, base), unet, hint)


def test_what_does_not_fit_is_one_sentence(theirs: ControlNetModel, unet: UNet2DConditionModel, save: Save) -> None:
    base, file = to_ldm(unet.state_dict()), lora_of(theirs)
    model, hint = load_control_model(save(file), settings=HEADS), torch.rand(1, 3, 128, 128)
    unit, (step, _) = ControlUnit(model=model, hint=hint), step_of(unet)
    with pytest.raises(HostError, match="takes weights of the base model, which this program does not show"):
        ControlStack([unit])(step)
    name = "time_embed.0.weight"
    for other, there in (({**base, name: torch.zeros(3, 3)}, r"\[3, 3\]"), ({}, "no such weight")):
        with pytest.raises(IncompatibleModelError, match=rf"is a Control-LoRA for .*the loaded base model has {there}"):
            ControlStack([unit], BaseHost(other))(step)
    check(ControlStack([unit], BaseHost(base)), merged(theirs, file, base), unet, hint)
    other = base_of(UNet2DConditionModel.from_config({**unet.config, "cross_attention_dim": 32}))
    with pytest.raises(IncompatibleModelError, match=r"was trained for .*64.* the loaded checkpoint is .*32"):
        check_fits(model.name, model.base, other)


@pytest.mark.parametrize("missing", ["time_embed.0.down", "zero_convs.0.0.weight", "middle_block_out.0.bias"])
def test_a_file_without_a_part_is_damaged(theirs: ControlNetModel, save: Save, missing: str) -> None:
    file = lora_of(theirs)
    del file[missing]
    with pytest.raises(DamagedModelError, match="lacks"):
        load_control_model(save(file), settings=HEADS)


PUBLISHED = {("SD 1.5", 128): 130, ("SDXL", 128): 377, ("SDXL", 256): 738}  # MiB in fp16


@pytest.mark.parametrize(("name", "rank"), PUBLISHED)
def test_full_size_files_are_recognised(tmp_path: Path, name: str, rank: int) -> None:
    shapes: dict[str, tuple[int, ...]] = {"lora_controlnet": (0,)}
    for key, shape in by_hand(CONTROLNETS[name]).items():
        stem = key.removesuffix(".weight")
        if is_low_rank(key, shape):
            r = min(rank, shape[0], math.prod(shape[1:]))
            shapes |= {f"{stem}.up": (shape[0], r), f"{stem}.down": (r, *shape[1:])}
        else:
            shapes[key] = shape
    assert [family.id for family in REGISTRY if family.detect(shapes)] == ["control-lora"]
    path = write_sparse(tmp_path / "canny.safetensors", shapes)
    told = inspect(path)
    assert (told.family, told.base) == ("Control-LoRA", CONTROLNETS[name].base)
    assert (told.missing, told.misshapen, told.unexpected) == ((), (), ())
    assert path.stat().st_size / 2**20 == pytest.approx(PUBLISHED[name, rank], rel=0.01)


def test_its_outline_has_the_points_of_a_controlnet(theirs: ControlNetModel, save: Save) -> None:
    model = load_control_model(save(lora_of(theirs)), settings=HEADS)
    assert isinstance(model, ControlLoraModel)
    assert len(model.points) == len(theirs.controlnet_down_blocks) + 1
