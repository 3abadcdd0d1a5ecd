"""ControlNet-XS against diffusers' `UNetControlNetXSModel`, which fuses an adapter with its base model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from adapters import unet_sd, unet_xl
from controlstack.core.control import ControlModel
from controlstack.core.errors import ControlError, IncompatibleModelError, UnsupportedModelError
from controlstack.core.host import PlainHost
from controlstack.core.network.attach import Patches, attach
from controlstack.core.network.base import BaseWeights
from controlstack.core.network.points import MIDDLE, Block, Part, Point, stream
from controlstack.core.stack import ControlStack
from controlstack.core.unit import ControlUnit
from controlstack.models.naming import to_ldm
from controlstack.models.registry import REGISTRY, inspect, load_control_model
from controlstack.pipelines.attached import check_units, locate_in
from diffusers import ControlNetXSAdapter, UNet2DConditionModel, UNetControlNetXSModel
from diffusers.models.resnet import ResnetBlock2D
from oracle import TOLERANCE, assert_close, randomise, relative_error, step_of
from safetensors.torch import save_file
from sparse_files import write_sparse
from torch import Tensor

# Widths of the controls: with the base's they are multiples of 32, since diffusers guesses groups from the first ones.
WIDTHS = {4: [32, 32, 64, 64], 3: [32, 32, 64]}
BASES: dict[str, Callable[[], UNet2DConditionModel]] = {"SD": unet_sd, "SDXL": unet_xl}


class Following(PlainHost):
    """A host whose base network is diffusers' U-Net."""

    def __init__(self, unet: Any) -> None:
        self._weights = BaseWeights(to_ldm(unet.state_dict()).get, id(unet))

    def follow(self, model: ControlModel) -> bool:
        return model.follow(self._weights)


def adapter_for(unet: Any, seed: int = 5, **more: Any) -> ControlNetXSAdapter:
    widths = WIDTHS[len(unet.config.block_out_channels)]
    return randomise(ControlNetXSAdapter.from_unet(unet, block_out_channels=widths, **more), seed)


def loaded(adapter: ControlNetXSAdapter, folder: Path, **more: Any) -> ControlModel:
    """As diffusers saves it: a folder with a configuration."""
    adapter.save_pretrained(folder)
    return load_control_model(folder, **more)


def picture(count: int = 1) -> Tensor:
    return torch.rand(count, 3, 128, 128, generator=torch.Generator().manual_seed(4))


def by_stack(unet: Any, step: Any, more: dict[str, Any], *units: ControlUnit) -> Tensor:
    check_units(units, unet)
    with Patches() as patches, torch.no_grad():
        attach(patches, ControlStack(units, Following(unet))(step), locate_in(unet))
        return unet(step.x, step.timestep, step.context, **more).sample


def by_diffusers(unet: Any, adapter: Any, step: Any, more: dict[str, Any], hint: Tensor, scale: float) -> Tensor:
    fused = UNetControlNetXSModel.from_unet(unet, adapter).eval()
    for name, layer in fused.named_modules():  # which it forgets: the base's residual blocks have another epsilon
        if isinstance(layer, ResnetBlock2D) and "ctrl_" not in name:
            layer.norm1.eps = layer.norm2.eps = unet.config.norm_eps
    rows = hint.repeat(len(step.x) // len(hint), 1, 1, 1)
    with torch.no_grad():
        return fused(step.x, step.timestep, step.context, rows, conditioning_scale=scale, **more).sample


def settings_of(base: str) -> dict[str, int]:
    return {"heads": 4} if base == "SD" else {"head_channels": 16}


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("base", BASES)
def test_it_does_what_diffusers_does(base: str, count: int, tmp_path: Path) -> None:
    unet = BASES[base]()
    adapter = adapter_for(unet)
    step, more = step_of(unet)
    model = loaded(adapter, tmp_path)  # whose configuration tells the heads
    ours = by_stack(unet, step, more, ControlUnit(model=model, hint=picture(count), weight=0.8))
    assert_close(ours, by_diffusers(unet, adapter, step, more, picture(count), 0.8))
    with torch.no_grad():
        bare = unet(step.x, step.timestep, step.context, **more).sample
    assert relative_error(ours, bare) > 100 * TOLERANCE


@pytest.mark.parametrize("base", BASES)
def test_a_single_file_needs_its_heads(base: str, tmp_path: Path) -> None:
    unet = BASES[base]()
    adapter = adapter_for(unet)
    path = tmp_path / "xs.safetensors"
    save_file(adapter.state_dict(), path)
    with pytest.raises(ControlError, match="the context width is 64"):
        load_control_model(path)
    model = load_control_model(path, settings=settings_of(base))
    step, more = step_of(unet)
    ours = by_stack(unet, step, more, ControlUnit(model=model, hint=picture()))
    assert_close(ours, by_diffusers(unet, adapter, step, more, picture(), 1.0))


def test_it_hears_what_another_unit_adds(tmp_path: Path) -> None:
    """The streams meet at every block: the second of two units sees what the first one does to the base."""
    unet = unet_sd()
    adapters = [adapter_for(unet), adapter_for(unet, seed=9)]
    models = [loaded(each, tmp_path / str(i)) for i, each in enumerate(adapters)]
    step, more = step_of(unet)
    one, two = (ControlUnit(model=each, hint=picture()) for each in models)
    with torch.no_grad():
        bare = unet(step.x, step.timestep, step.context, **more).sample
    alone = [by_stack(unet, step, more, unit) - bare for unit in (one, two)]
    both = by_stack(unet, step, more, one, two) - bare
    assert relative_error(both, alone[0] + alone[1]) > 100 * TOLERANCE
    assert relative_error(both, by_stack(unet, step, more, two, one) - bare) < 1e-4


def test_a_mask_and_block_weights_reach_every_point(tmp_path: Path) -> None:
    unet = unet_sd()
    model = loaded(adapter_for(unet), tmp_path)
    step, more = step_of(unet)
    whole = by_stack(unet, step, more, ControlUnit(model=model, hint=picture()))
    full = by_stack(unet, step, more, ControlUnit(model=model, hint=picture(), mask=torch.ones(1, 1, 128, 128)))
    assert torch.equal(whole, full)
    last = tuple(float(i == len(model.points) - 1) for i in range(len(model.points)))
    tail = by_stack(unet, step, more, ControlUnit(model=model, hint=picture(), block_weights=last))
    with torch.no_grad():
        bare = unet(step.x, step.timestep, step.context, **more).sample
    assert relative_error(tail, bare) > 10 * TOLERANCE and relative_error(tail, whole) > 10 * TOLERANCE


def test_its_points_are_those_of_encoder_middle_and_decoder(tmp_path: Path) -> None:
    model = loaded(adapter_for(unet_sd()), tmp_path)
    assert model.points[:12] == tuple(stream(i) for i in range(12)) and model.points[12] == MIDDLE
    assert model.points[13:] == tuple(Point(Block.OUTPUT, i) for i in range(11))
    assert all(point.part is Part.STREAM for point in model.points)
    assert model.base.blocks == (32, 32, 32, 32, 64, 64, 64, 96, 96, 96, 96, 96)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_it_computes_in_half_precision(dtype: torch.dtype, tmp_path: Path) -> None:
    unet = unet_sd()
    adapter = adapter_for(unet)
    step, more = step_of(unet)
    whole, half = (
        by_stack(unet, step, more, ControlUnit(model=loaded(adapter, tmp_path, dtype=each), hint=picture()))
        for each in (None, dtype)
    )
    assert relative_error(half, whole) < 0.05


def test_another_base_is_refused_naming_both_sides(tmp_path: Path) -> None:
    model = loaded(adapter_for(unet_sd()), tmp_path)
    with pytest.raises(IncompatibleModelError, match=r"trained for .* 96, 96, 96, 96\), the loaded .* is"):
        check_units([ControlUnit(model=model, hint=picture())], unet_xl())
    with pytest.raises(IncompatibleModelError, match="no such time embedding: load the base"):
        model.follow(BaseWeights({}.get, "none"))


def test_relatives_are_named_and_refused(tmp_path: Path) -> None:
    unet = unet_sd()
    timed = adapter_for(unet, learn_time_embedding=True)
    with pytest.raises(UnsupportedModelError, match="a time embedding of its own"):
        loaded(timed, tmp_path / "timed")
    fused = UNetControlNetXSModel.from_unet(unet, adapter_for(unet))
    save_file({name: each.contiguous() for name, each in fused.state_dict().items()}, tmp_path / "fused.safetensors")
    with pytest.raises(UnsupportedModelError, match="fused with its base model: get the adapter alone"):
        load_control_model(tmp_path / "fused.safetensors")


FULL_SIZE: dict[str, tuple[dict[str, Any], str, float]] = {
    # configuration of the adapter -> base model, millions of parameters
    "SD 1.5": ({"cross_attention_dim": 768, "num_attention_heads": 8, "use_linear_projection": False}, "SD 1.x", 28.1),
    "SD 2.1": ({"cross_attention_dim": 1024, "num_attention_heads": (5, 10, 20, 20)}, "SD 2.x", 28.2),
    "SDXL": ({
        "cross_attention_dim": 2048, "num_attention_heads": (5, 10, 20), "block_out_channels": (32, 64, 128),
        "base_block_out_channels": (320, 640, 1280), "transformer_layers_per_block": (1, 2, 10),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    }, "SDXL", 38.2),
}  # fmt: skip


@pytest.mark.parametrize("name", FULL_SIZE)
def test_full_size_files_are_told_by_their_names_and_shapes(name: str, tmp_path: Path) -> None:
    config, base, millions = FULL_SIZE[name]
    with torch.device("meta"):
        adapter = ControlNetXSAdapter(**{"block_out_channels": (32, 64, 128, 128), **config})
    shapes = {key: tuple(each.shape) for key, each in adapter.state_dict().items()}
    assert [family.id for family in REGISTRY if family.detect(shapes)] == ["controlnet-xs"]
    path = write_sparse(tmp_path / "xs.safetensors", shapes)
    (tmp_path / "config.json").write_text(json.dumps(dict(adapter.config)))
    told = inspect(path)
    assert (told.family, told.base, told.layout) == ("ControlNet-XS", base, "diffusers")
    assert told.parameters == sum(each.numel() for each in adapter.parameters())
    assert told.parameters / 1e6 == pytest.approx(millions, abs=0.05)
    assert told.missing == told.misshapen == told.unexpected == ()
