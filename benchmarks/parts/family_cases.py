"""The families that `families.py` measures: for each a step of ours and the peer's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from controlstack.core.stack import ControlStack
from controlstack.models.families import control_lora, controlnet_xs, ctrlora, lllite, union
from controlstack.models.families.controlnet.config import ControlNetConfig, ControlNetSettings
from controlstack.models.families.controlnet.family import FAMILY as CONTROLNET
from controlstack.models.families.ip_adapter import family as ip_adapter
from controlstack.models.families.uni import family as uni
from controlstack.models.layers import STANDARD
from controlstack.models.naming import to_ldm
from controlstack.training.recipes.uni import UniRecipe
from controlstack.training.settings import Settings
from torch import Tensor

from .counting import MetaUnit
from .family_sizes import ROWS, SD15, SPREAD, Size, stepping, wrapped

RANK = 128  # of the Control-LoRAs for SD 1.5
LLLITE_LEVELS = {"input_blocks_4_1": 2, "input_blocks_7_1": 10, "middle_block_1": 10}  # depths of some of SDXL's blocks


class Case(NamedTuple):
    """One family: a step of ours by its number, and the peer's; both with the U-Net in them, or both without."""

    ours: Callable[[int], object]
    theirs: Callable[[], object] | None = None
    with_base: bool = False


def of_controlnet(size: Size) -> Case:
    """Return ControlNet for SD 1.5 beside diffusers'."""
    from diffusers import ControlNetModel

    theirs = size.kept("controlnet", lambda: ControlNetModel(**size.config(False)))
    model = wrapped(CONTROLNET, dict(theirs.state_dict()))
    context, hint = size.tensor(ROWS, 77, 768), size.hint(False)

    def peer() -> object:
        step = size.step(False, context, 0)
        return theirs(step.x, step.timestep, context, hint.expand(ROWS, -1, -1, -1), return_dict=False)

    return Case(stepping(size, False, MetaUnit(model=model, hint=hint)), peer)


def of_union(size: Size, kinds: int) -> Case:
    """Return ControlNet-Union with one or two kinds of hints in one pass, beside diffusers'."""
    from diffusers import ControlNetUnionModel

    width = size.config(True)["block_out_channels"][0]
    more = {"num_control_type": 8, "num_trans_channel": width, "num_proj_channel": width}
    theirs = size.kept("union", lambda: ControlNetUnionModel(**size.config(True), **more))
    model = wrapped(union.FAMILY, dict(theirs.state_dict()))
    words = ("depth", "canny")[:kinds]
    model = model.bind({"union_control_type": "+".join(words)})
    context, hint = size.tensor(ROWS, 77, 2048), size.hint(True)
    types = torch.zeros(ROWS, 8, device=size.device)

    def peer() -> object:
        step = size.step(True, context, 0)
        hints = [hint.expand(ROWS, -1, -1, -1)] * kinds
        return theirs(step.x, step.timestep, context, hints, types, [1, 3][:kinds], [1.0] * kinds, return_dict=False,
                      **size.conditions(True))  # fmt: skip

    unit = MetaUnit(model=model, hint=hint.repeat(1, kinds, 1, 1))
    return Case(stepping(size, True, unit), peer)


def of_control_lora(size: Size) -> Case:
    """Return Control-LoRA of rank 128 for SD 1.5 beside ComfyUI's formula: every layer is multiplied at every step."""
    from diffusers import ControlNetModel

    whole = size.kept("controlnet", lambda: ControlNetModel(**size.config(False)))
    state, factors = _low_rank(size, to_ldm(dict(whole.state_dict())))
    model = wrapped(control_lora.FAMILY, state)
    context, hint = size.tensor(ROWS, 77, 768), size.hint(False)

    def peer() -> object:
        for up, down in factors:
            _ = up.flatten(1) @ down.flatten(1)
        step = size.step(False, context, 0)
        return whole(step.x, step.timestep, context, hint.expand(ROWS, -1, -1, -1), return_dict=False)

    return Case(stepping(size, False, MetaUnit(model=model, hint=hint)), peer)


def of_ctrlora(size: Size) -> Case:
    """Return a CtrLoRA for SD 1.5 beside Advanced-ControlNet's: a ControlNet that encodes latents of the hint.

    Both merge the factors when the file is loaded, so their rank costs no step anything.
    """
    from diffusers import ControlNetModel

    theirs = size.made(lambda: ControlNetModel(**size.config(False)))
    state = to_ldm(dict(theirs.state_dict()))
    shapes = {name: tuple(each.shape) for name, each in state.items()}
    config = ControlNetConfig.from_shapes(shapes, ControlNetSettings(heads=SD15["attention_head_dim"]))
    network = size.made(lambda: ctrlora.CtrLoraNet(config, STANDARD))
    model = ctrlora.FAMILY.wrap(network, "ctrlora", ctrlora.CtrLoraSettings(), None)
    theirs.controlnet_cond_embedding = Nothing()
    context, latents = size.tensor(ROWS, 77, 768), size.tensor(ROWS, 4, size.side(False), size.side(False))

    def peer() -> object:
        return theirs(latents, size.step(False, context, 0).timestep, context, latents[:, :1], return_dict=False)

    return Case(stepping(size, False, MetaUnit(model=model, hint=size.hint(False))), peer)


def of_uni(size: Size) -> Case:
    """Return Uni-ControlNet's local adapter for SD 1.5 beside its authors', which reads the hints at every step.

    The peer is our own network in the order of their forward, for both rows: their program is no library.
    """
    said = Settings(base=Path(), data=Path())
    network = size.made(lambda: UniRecipe().create(size.unet(), said))
    model = uni.FAMILY.wrap(network, "uni", ControlNetSettings(), None).bind({"union_control_type": "depth"})
    context, hint = size.tensor(ROWS, 77, 768), size.hint(False)

    def peer() -> object:
        prepared = model.prepare(hint.expand(ROWS, -1, -1, -1))
        return list(model(size.step(False, context, 0), prepared, model.encode(context), model.points))

    return Case(stepping(size, False, MetaUnit(model=model, hint=hint)), peer)


class Nothing(torch.nn.Module):
    """In place of a hint encoder: it adds zeros."""

    def forward(self, hint: Tensor) -> Tensor:
        return torch.zeros_like(hint)


def _low_rank(size: Size, whole: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[tuple[Tensor, Tensor]]]:
    """Return a ControlNet's weights as a Control-LoRA's file, and the two factors of each layer."""
    state: dict[str, Tensor] = {control_lora.MARK: size.tensor(1)}
    factors: list[tuple[Tensor, Tensor]] = []
    for name, each in whole.items():
        if each.ndim < 2 or name.startswith(control_lora.OWN):
            state[name] = each
            continue
        stem, rank = name.removesuffix(".weight"), min(RANK, *each.shape[:2])
        up, down = size.tensor(each.shape[0], rank), size.tensor(rank, *each.shape[1:])
        state |= {f"{stem}.up": up, f"{stem}.down": down}
        factors.append((up, down))
    return state, factors


def of_ip_adapter(size: Size) -> Case:
    """Return a plain IP-Adapter for SD 1.5 beside diffusers' processors, which project its tokens at every step."""
    unet, other = size.unet(), size.unet(own=True)
    names = [name for name in unet.attn_processors if ".attn2." in name]
    widths = [unet.get_submodule(name.removesuffix(".processor")).to_q.out_features for name in names]
    state = {
        f"ip_adapter.{2 * k + 1}.to_{part}_ip.weight": size.tensor(width, 768) * SPREAD
        for k, width in enumerate(widths)
        for part in ("k", "v")
    }
    state |= {"image_proj.proj.weight": size.tensor(4 * 768, 1024) * SPREAD, "image_proj.proj.bias": size.tensor(3072),
              "image_proj.norm.weight": size.tensor(768), "image_proj.norm.bias": size.tensor(768)}  # fmt: skip
    model = wrapped(ip_adapter.FAMILY, state)
    _put_processors(size, other, widths)
    context, embeds = size.tensor(ROWS, 77, 768), size.tensor(ROWS, 1, 1024)

    def peer() -> object:
        step = size.step(False, context, 0)
        return other(step.x, step.timestep, context, added_cond_kwargs={"image_embeds": [embeds]}).sample

    return Case(stepping(size, False, MetaUnit(model=model, hint=embeds[:1]), unet), peer, with_base=True)


def _put_processors(size: Size, unet: Any, widths: list[int]) -> None:
    """Give a U-Net of diffusers an IP-Adapter."""
    from diffusers.models.attention_processor import AttnProcessor2_0, IPAdapterAttnProcessor2_0
    from diffusers.models.embeddings import ImageProjection, MultiIPAdapterImageProjection

    left = iter(widths)
    unet.set_attn_processor({
        name: size.made(lambda: IPAdapterAttnProcessor2_0(next(left), 768, num_tokens=(4,)))
        if ".attn2." in name else AttnProcessor2_0()
        for name in unet.attn_processors
    })  # fmt: skip
    projection = size.made(lambda: ImageProjection(1024, 768, num_image_text_embeds=4))
    unet.encoder_hid_proj = MultiIPAdapterImageProjection([projection])
    unet.register_to_config(encoder_hid_dim_type="ip_image_proj")


def of_controlnet_xs(size: Size) -> Case:
    """Return ControlNet-XS for SD 1.5, a tenth as wide as the base, beside diffusers' fused model."""
    from diffusers import ControlNetXSAdapter, UNetControlNetXSModel

    unet = size.unet()
    widths = [max(8, each // 10) for each in unet.config.block_out_channels]
    adapter = size.made(lambda: ControlNetXSAdapter.from_unet(unet, block_out_channels=widths))
    fused = size.made(lambda: UNetControlNetXSModel.from_unet(unet, adapter))
    model = wrapped(controlnet_xs.FAMILY, dict(adapter.state_dict()))
    context, hint = size.tensor(ROWS, 77, 768), size.hint(False)

    def peer() -> object:
        step = size.step(False, context, 0)
        return fused(step.x, step.timestep, context, hint.expand(ROWS, -1, -1, -1)).sample

    return Case(stepping(size, False, MetaUnit(model=model, hint=hint), unet), peer, with_base=True)


def of_lllite(size: Size) -> Case:
    """Return ControlLLLite for SDXL at three of its blocks, without a peer, whose formula and savings are the same."""
    widths = dict(zip(LLLITE_LEVELS, (640, 1280, 1280), strict=True))
    state: dict[str, Tensor] = {}
    for block, depth in LLLITE_LEVELS.items():
        width, emb, mlp = widths[block] // size.narrow, 32, 64
        for k in range(depth):
            for value in ("attn1_to_q", "attn1_to_k", "attn1_to_v", "attn2_to_q"):
                state |= _lllite(size, f"lllite_unet_{block}_transformer_blocks_{k}_{value}", width, emb, mlp)
    model = wrapped(lllite.FAMILY, state)
    stack = ControlStack([MetaUnit(model=model, hint=size.hint(True))])
    context = size.tensor(ROWS, 77, 2048)

    def run(index: int) -> object:
        effects = stack(size.step(True, context, index))
        for point, shift in effects.shifts.items():
            level = 2 if point.index == 4 else 4
            width = (640 if level == 2 else 1280) // size.narrow
            shift(size.tensor(ROWS, (size.side(True) // level) ** 2, width))
        return effects

    return Case(run)


def _lllite(size: Size, name: str, width: int, emb: int, mlp: int) -> dict[str, Tensor]:
    """Return the weights of one module; the depth of its stem is that of the level."""
    strides = (4, 4) if width * size.narrow == 640 else (4, 4, 2)
    channels = (3, *(emb // 2,) * (len(strides) - 1), emb)
    found: dict[str, Tensor] = {}
    for i, stride in enumerate(strides):
        found[f"{name}.conditioning1.{2 * i}.weight"] = size.tensor(channels[i + 1], channels[i], stride, stride)
        found[f"{name}.conditioning1.{2 * i}.bias"] = size.tensor(channels[i + 1])
    for part, out, enters in (("down.0", mlp, width), ("mid.0", mlp, mlp + emb), ("up.0", width, mlp)):
        found |= {f"{name}.{part}.weight": size.tensor(out, enters), f"{name}.{part}.bias": size.tensor(out)}
    return found


CASES: dict[str, tuple[Callable[[Size], Case], bool]] = {  # whether the base model is SDXL
    "controlnet": (of_controlnet, False),
    "control_lora": (of_control_lora, False),
    "ctrlora": (of_ctrlora, False),
    "ip_adapter": (of_ip_adapter, False),
    "controlnet_xs": (of_controlnet_xs, False),
    "uni": (of_uni, False),
    "union_one": (lambda size: of_union(size, 1), True),
    "union_two": (lambda size: of_union(size, 2), True),
    "lllite": (of_lllite, True),
}
