"""The trainable copy: a ControlNet that starts as the encoder of a base model's U-Net.

ControlNet paper, section 3.1: encoder and middle block are copied, the zero convolutions and the last convolution of
the hint encoder start at zero, so that the untrained control adds exactly nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ...core.errors import ModelError
from ...models.families.controlnet.config import ControlNetConfig, ControlNetSettings
from ...models.families.controlnet.network import ControlNet
from ...models.family import shapes_of
from ...models.naming import to_ldm
from ...models.settings import read

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel


def copy_of_encoder(unet: UNet2DConditionModel, *, only_middle: bool = False) -> ControlNet:
    """Return a ControlNet in fp32 whose encoder equals the U-Net's; its own layers have PyTorch's random weights."""
    state = to_ldm(dict(unet.state_dict()))
    given = {**settings_of(unet), "only_middle": only_middle}
    network = ControlNet(ControlNetConfig.from_shapes(shapes_of(state), read(ControlNetSettings, given, "the U-Net")))
    own = network.state_dict()
    network.load_state_dict({key: state.get(key, value) for key, value in own.items()})
    return network.to(torch.float32)


def settings_of(unet: UNet2DConditionModel) -> dict[str, int]:
    """Return what the shapes of a U-Net's weights do not tell: attention heads and normalisation groups.

    diffusers calls the number of heads `attention_head_dim`, and keeps the name on purpose.
    """
    config = unet.config
    widths, heads = list(config["block_out_channels"]), config["attention_head_dim"]
    counts = heads if isinstance(heads, (list, tuple)) else [heads] * len(widths)
    settings = {"norm_groups": config["norm_num_groups"]}
    if len(set(counts)) == 1:
        return {**settings, "heads": counts[0]}
    channels = {width // count for width, count in zip(widths, counts, strict=True)}
    if len(channels) != 1:
        raise ModelError(f"the U-Net has {counts} attention heads at widths {widths}: expected one number or width")
    return {**settings, "head_channels": channels.pop()}
