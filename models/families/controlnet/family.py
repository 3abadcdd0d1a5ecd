"""Files of ControlNets: how they are told from others, and how they become models."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from ....core.control import ControlModel
from ....core.errors import ModelError
from ....core.network.base import SDXL_CONTEXT, Base
from ....core.options import Option
from ...companions import companion_of, read_delta
from ...family import Family, Shapes
from ...files.loading import Header
from ...guard import shown
from ...layers import Kit
from ...naming import to_ldm
from .config import ControlNetConfig, ControlNetSettings, base_of, context_of
from .model import CONTEXT, ControlNetModel
from .network import ControlNet

PREFIX = "control_model."  # of the control model in a training checkpoint of the original code
TASKS = "task_embedding"  # of a union: a row for each kind of hint
OF_UNIONS = (TASKS, "control_add_embedding.", "spatial_ch_projs.", "transformer_layes.")  # its parts

T = TypeVar("T")


class ControlNetFamily(Family[ControlNet, ControlNetSettings]):
    """ControlNets in the original names, bare, prefixed or inside a training checkpoint, and in those of diffusers."""

    id, title, settings = "controlnet", "ControlNet", ControlNetSettings
    bases, paper = "SD 1.x, SD 2.x, SDXL", "Zhang et al., ICCV 2023"
    options = (CONTEXT,)

    def detect(self, shapes: Shapes) -> bool:
        return is_controlnet(shapes) and not is_union(shapes)

    def layout(self, names: Collection[str]) -> str:
        if _is_diffusers(names):
            return "diffusers"
        if any(name.startswith("model.diffusion_model.") for name in names):
            return "full checkpoint"
        return "ldm, prefixed" if any(name.startswith(PREFIX) for name in names) else "ldm"

    def rename(self, named: Mapping[str, T]) -> dict[str, T]:
        """Return bare ldm names; the base model of a full training checkpoint is left out."""
        if _is_diffusers(named):
            return to_ldm(named)
        prefixed = {key[len(PREFIX) :]: each for key, each in named.items() if key.startswith(PREFIX)}
        return prefixed or dict(named)

    def unsaid(self) -> ControlNetSettings:
        return self.settings(heads=1, norm_groups=1)

    def of_config(self, config: Mapping[str, Any]) -> dict[str, object]:
        """Return what the weights do not show. diffusers calls the number of heads `attention_head_dim`."""
        settings: dict[str, object] = {"norm_groups": config.get("norm_num_groups")}
        settings |= heads_of_config(config)
        if config.get("global_pool_conditions"):
            settings["global_average_pooling"] = True
        return settings | {"hint_order": config.get("controlnet_conditioning_channel_order")}

    def base(self, shapes: Shapes) -> Base:
        return base_of(shapes)

    def offers(self, shapes: Shapes, settings: ControlNetSettings) -> tuple[Option, ...]:
        return _offers(context_of(shapes))

    def create(self, shapes: Shapes, settings: ControlNetSettings, kit: Kit) -> ControlNet:
        return ControlNet(ControlNetConfig.from_shapes(shapes, settings), kit.ops, kit.attention)

    def wrap(
        self, network: ControlNet, name: str, settings: ControlNetSettings, dtype: torch.dtype | None
    ) -> ControlNetModel:
        pool = settings.global_average_pooling
        if pool is None and name.lower().removesuffix("_fp16").endswith("shuffle"):
            logging.getLogger("controlstack").warning(
                "'%s' is taken for a shuffle model by its name: its residuals are averaged over the picture. "
                "The setting 'global_average_pooling' in a JSON file beside it decides otherwise.",
                shown(name),
            )
            pool = True
        model = ControlNetModel(network, name=name, pool=bool(pool), bgr=settings.hint_order == "bgr", dtype=dtype)
        model.offers = _offers(network.config.context)
        return model

    def join(
        self,
        model: ControlModel,
        header: Header,
        settings: ControlNetSettings,
        base_state: Mapping[str, Tensor] | None,
    ) -> ControlModel:
        """Return the model with what was added to the base's weights in its training, if the file names a companion."""
        if settings.companion is not None and (companion := companion_of(header.weights, settings.companion)):
            model.delta = read_delta(companion, header, "increments", base_state)
        return model


FAMILY = ControlNetFamily()


def _offers(context: int | None) -> tuple[Option, ...]:
    return (CONTEXT,) if context == SDXL_CONTEXT else ()


def heads_of_config(config: Mapping[str, Any]) -> dict[str, object]:
    """Return the heads of diffusers' configuration: one number, or one for each level."""
    heads: Any = config.get("num_attention_heads") or config.get("attention_head_dim")
    counts = cast("list[Any]", heads) if isinstance(heads, list) else [heads]
    if len({str(count) for count in counts}) <= 1:
        return {"heads": counts[0] if counts else None}
    widths = cast("list[Any]", config.get("block_out_channels") or [])
    if not all(type(each) is int and each > 0 for each in (*widths, *counts)):
        raise ModelError(f"the configuration beside the model has {shown(counts)} attention heads, expected numbers")
    channels = {width // count for width, count in zip(widths, counts, strict=False)}
    if len(channels) != 1:
        raise ModelError(
            f"the configuration beside the model has {shown(counts)} attention heads at widths {shown(widths)}, "
            "expected one number of heads, or one width of a head"
        )
    return {"head_channels": channels.pop()}


def is_controlnet(names: Collection[str]) -> bool:
    """Return whether these are the names of a ControlNet of any kind."""
    if _is_diffusers(names):
        return "controlnet_down_blocks.0.weight" in names and "conv_in.weight" in names
    bare = ("input_hint_block.0.weight", "zero_convs.0.0.weight", "input_blocks.0.0.weight")
    lite = "input_blocks.1.2.weight"  # a convolution in place of a residual block: a ControlNet-Lite
    return any(all(prefix + name in names for name in bare) and prefix + lite not in names for prefix in ("", PREFIX))


def is_union(names: Collection[str]) -> bool:
    """Return whether a ControlNet is one for several kinds of hints, which `union.py` reads, whole or damaged."""
    return any(name.removeprefix(PREFIX).startswith(OF_UNIONS) for name in names)


def _is_diffusers(names: Collection[str]) -> bool:
    return "controlnet_cond_embedding.conv_in.weight" in names
