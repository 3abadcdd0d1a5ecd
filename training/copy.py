"""The trainable copy: a ControlNet that starts as the encoder of a base model's U-Net.

ControlNet paper, section 3.1: encoder and middle block are copied, the zero convolutions and the last convolution of
the hint encoder start at zero, so that the untrained control adds exactly nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from ..core.errors import ModelError
from ..models.families.controlnet import ControlNet, ControlNetConfig
from ..models.naming import to_ldm

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel


def trainable_copy(unet: UNet2DConditionModel) -> ControlNet:
    """A ControlNet whose encoder equals the U-Net's and whose residuals are zero."""
    state = to_ldm(dict(unet.state_dict()))
    shapes = {key: tuple(value.shape) for key, value in state.items()}
    network = ControlNet(ControlNetConfig.from_shapes(shapes, settings_of(unet)))
    own = network.state_dict()
    network.load_state_dict({key: state.get(key, value) for key, value in own.items()})
    for module in (*network.zero_convs.modules(), *network.middle_block_out.modules(), network.input_hint_block[-1]):
        if isinstance(module, nn.Conv2d):
            nn.init.zeros_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return network.to(torch.float32)


def settings_of(unet: UNet2DConditionModel) -> dict[str, str]:
    """What the shapes of a U-Net's weights do not tell: attention heads and normalisation groups.

    diffusers calls the number of heads `attention_head_dim`, and keeps the name on purpose.
    """
    config = unet.config
    widths, heads = list(config["block_out_channels"]), config["attention_head_dim"]
    counts = heads if isinstance(heads, (list, tuple)) else [heads] * len(widths)
    settings = {"norm_groups": str(config["norm_num_groups"])}
    if len(set(counts)) == 1:
        return {**settings, "heads": str(counts[0])}
    channels = {width // count for width, count in zip(widths, counts, strict=True)}
    if len(channels) != 1:
        raise ModelError(f"the U-Net has {counts} attention heads at widths {widths}: expected one number or width")
    return {**settings, "head_channels": str(channels.pop())}
