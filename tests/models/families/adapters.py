"""What the proofs of IP-Adapters share: tiny U-Nets, files with random weights, and diffusers' answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch
from controlstack.core.control import ControlModel
from controlstack.core.network.attach import Patches, attach_shifts, change_weights
from controlstack.core.stack import ControlStack
from controlstack.core.unit import ControlUnit
from controlstack.models.naming import to_ldm
from controlstack.models.registry import load_control_model
from controlstack.pipelines.attached import check_units, locate_in
from diffusers import UNet2DConditionModel
from oracle import PICTURES, randomise
from safetensors.torch import save_file
from torch import Tensor

CONTEXT, SEEN, HEADS = 64, 48, 4
KINDS = ("plain", "plus", "full")
State = dict[str, Tensor]


def attentive(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """Random weights, and a cross-attention that counts."""
    for name, parameter in randomise(unet).named_parameters():
        if "attn2.to_out" in name:
            parameter.data *= 20
    return unet


@cache
def unet_sd() -> UNet2DConditionModel:
    return attentive(UNet2DConditionModel(
        sample_size=16, block_out_channels=(32, 64, 96, 96), layers_per_block=2, cross_attention_dim=CONTEXT,
        attention_head_dim=HEADS, up_block_types=("UpBlock2D", *("CrossAttnUpBlock2D",) * 3),
        down_block_types=(*("CrossAttnDownBlock2D",) * 3, "DownBlock2D"),
    ))  # fmt: skip


@cache
def unet_xl() -> UNet2DConditionModel:
    return attentive(UNet2DConditionModel(
        sample_size=16, block_out_channels=(32, 64, 96), layers_per_block=2, cross_attention_dim=CONTEXT,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), attention_head_dim=(2, 4, 6),
        transformer_layers_per_block=(1, 2, 3), use_linear_projection=True, addition_embed_type="text_time",
        addition_time_embed_dim=8, projection_class_embeddings_input_dim=80,
    ))  # fmt: skip


@contextmanager
def lent(unet: UNet2DConditionModel) -> Iterator[UNet2DConditionModel]:
    """A U-Net that all tests share, to be changed: its weights and processors come back."""
    weights = [(parameter, parameter.clone()) for parameter in unet.parameters()]
    processors = dict(unet.attn_processors)
    yield unet
    unet.encoder_hid_proj = None  # first: it may hold attention of its own
    unet.set_attn_processor(processors)
    unet.register_to_config(encoder_hid_dim_type=None)
    for parameter, before in weights:
        parameter.data.copy_(before)


UNETS: dict[str, tuple[Callable[[], UNet2DConditionModel], dict[str, int]]] = {
    "SD": (unet_sd, {"heads": HEADS}), "SDXL": (unet_xl, {"head_channels": 16}),
}  # fmt: skip


def projection(kind: str, width: int = SEEN, context: int = CONTEXT) -> dict[str, tuple[int, ...]]:
    """The shapes of an image projection by the published names."""
    if kind == "plain":
        return {"proj.weight": (4 * context, width), "proj.bias": (4 * context,), "norm.weight": (context,),
                "norm.bias": (context,)}  # fmt: skip
    if kind == "full":
        return {"proj.0.weight": (width, width), "proj.0.bias": (width,), "proj.2.weight": (context, width),
                "proj.2.bias": (context,), "proj.3.weight": (context,), "proj.3.bias": (context,)}  # fmt: skip
    return resampler(width, 80, 128, 4 * 80, context, tokens=5)


def resampler(
    seen: int, width: int, inner: int, feed: int, context: int, tokens: int = 16, depth: int = 4
) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        "latents": (1, tokens, width), "proj_in.weight": (width, seen), "proj_in.bias": (width,),
        "proj_out.weight": (context, width), "proj_out.bias": (context,), "norm_out.weight": (context,),
        "norm_out.bias": (context,),
    }  # fmt: skip
    for i in range(depth):
        attention, forward = f"layers.{i}.0", f"layers.{i}.1"
        for norm in (f"{attention}.norm1", f"{attention}.norm2", f"{forward}.0"):
            shapes |= {f"{norm}.weight": (width,), f"{norm}.bias": (width,)}
        shapes |= {
            f"{attention}.to_q.weight": (inner, width), f"{attention}.to_kv.weight": (2 * inner, width),
            f"{attention}.to_out.weight": (width, inner), f"{forward}.1.weight": (feed, width),
            f"{forward}.3.weight": (width, feed),
        }  # fmt: skip
    return shapes


def layers(widths: list[int], context: int) -> dict[str, tuple[int, ...]]:
    return {
        f"ip_adapter.{2 * k + 1}.to_{part}_ip.weight": (width, context)
        for k, width in enumerate(widths)
        for part in ("k", "v")
    }


def widths_of(unet: Any) -> list[int]:
    """The widths of a U-Net's cross-attentions, in the order of diffusers' processors."""
    names = [name for name in unet.attn_processors if ".attn2." in name]
    return [unet.get_submodule(name.removesuffix(".processor")).to_q.out_features for name in names]


def state_of(shapes: Mapping[str, tuple[int, ...]], seed: int = 0) -> State:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(shape, generator=generator) / (shape[-1] ** 0.5 if len(shape) > 1 else 5)
        for name, shape in shapes.items()
    }


def file_of(kind: str, unet: Any) -> State:
    parts = {f"image_proj.{name}": shape for name, shape in projection(kind).items()}
    state = state_of({**parts, **layers(widths_of(unet), CONTEXT)})
    return {name: each * (4 if name.startswith("ip_adapter") else 1) for name, each in state.items()}


def nested(state: State) -> dict[str, State]:
    """As .bin files have it: tables inside each other."""
    return {
        part: {name[len(part) + 1 :]: each for name, each in state.items() if name.startswith(f"{part}.")}
        for part in ("image_proj", "ip_adapter")
    }


def load(state: State, folder: Path, settings: dict[str, int], pickled: bool = False) -> ControlModel:
    path = folder / f"adapter.{'bin' if pickled else 'safetensors'}"
    if pickled:
        torch.save(nested(state), path)
    else:
        save_file(state, path)
    return load_control_model(path, settings=settings)


def seen_by(kind: str, count: int = PICTURES, seed: int = 3) -> tuple[Tensor, Tensor]:
    """What an encoder saw in pictures, and in none: as diffusers' pipelines hand it over."""
    tokens = 1 if kind == "plain" else 7
    seen = torch.randn(count, tokens, SEEN, generator=torch.Generator().manual_seed(seed))
    grey = torch.randn(1, tokens, SEEN, generator=torch.Generator().manual_seed(seed + 1)).expand(count, -1, -1)
    return seen, torch.zeros_like(seen) if kind == "plain" else grey


def hint_of(kind: str, seen: Tensor, none: Tensor) -> Tensor:
    return seen if kind == "plain" else torch.cat([seen, none], dim=-1)


def by_diffusers(unet: Any, state: State, step: Any, more: dict[str, Any], kind: str, pairs: list[Any], scale: float,
                 masks: Tensor | None = None) -> Tensor:  # fmt: skip
    """pairs: (seen, none) of each picture that all rows get beside the others; masks: [1, 1, H, W]."""
    embeds = torch.stack([torch.cat([none, seen]) for seen, none in pairs], dim=1)  # [rows, pictures, T, D]
    embeds = embeds[:, :, 0] if kind == "plain" else embeds
    added = {**more.get("added_cond_kwargs", {}), "image_embeds": [embeds]}
    masked = {} if masks is None else {"cross_attention_kwargs": {"ip_adapter_masks": [masks]}}
    with lent(unet), torch.no_grad():
        unet._load_ip_adapter_weights([nested(state)], low_cpu_mem_usage=False)
        for processor in unet.attn_processors.values():
            if hasattr(processor, "scale"):
                processor.scale = [scale]
        return unet(step.x, step.timestep, step.context, added_cond_kwargs=added, **masked).sample


def by_stack(unet: Any, step: Any, more: dict[str, Any], **unit: Any) -> Tensor:
    one = ControlUnit(**unit)
    check_units([one], unet)
    with Patches() as patches, torch.no_grad():
        change_weights(patches, [one], to_ldm(dict(unet.named_parameters())))
        attach_shifts(patches, ControlStack([one])(step), locate_in(unet))
        return unet(step.x, step.timestep, step.context, **more).sample


def change(answer: Tensor, unet: Any, step: Any, more: dict[str, Any]) -> Tensor:
    """What the adapter changes in the base network's answer."""
    with torch.no_grad():
        return answer - unet(step.x, step.timestep, step.context, **more).sample


SD_WIDTHS = [320, 320, 640, 640, 1280, 1280, 1280, 1280, 1280, 640, 640, 640, 320, 320, 320, 1280]
XL_WIDTHS = [640] * 4 + [1280] * 20 + [1280] * 30 + [640] * 6 + [1280] * 10
