"""The trainable copy: a ControlNet that starts as the encoder of a base model's U-Net.

ControlNet paper, section 3.1: encoder and middle block are copied, the zero convolutions and the last convolution of
the hint encoder start at zero, so that the untrained control adds exactly nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from ..core.base import check_fits
from ..core.errors import ModelError, UnsupportedModelError
from ..models.families.controlnet import FAMILY, ControlNet, ControlNetConfig, ControlNetModel, ControlNetSettings
from ..models.loading import read_header
from ..models.naming import to_ldm
from ..models.registry import identify, load_control_model
from ..models.settings import read

if TYPE_CHECKING:
    from pathlib import Path

    from diffusers import UNet2DConditionModel


def trainable_copy(unet: UNet2DConditionModel) -> ControlNet:
    """A ControlNet whose encoder equals the U-Net's and whose residuals are zero."""
    state = to_ldm(dict(unet.state_dict()))
    shapes = {key: tuple(value.shape) for key, value in state.items()}
    settings = read(ControlNetSettings, settings_of(unet), "the U-Net")
    network = ControlNet(ControlNetConfig.from_shapes(shapes, settings))
    own = network.state_dict()
    network.load_state_dict({key: state.get(key, value) for key, value in own.items()})
    for module in (*network.zero_convs.modules(), *network.middle_block_out.modules(), network.input_hint_block[-1]):
        if isinstance(module, nn.Conv2d):
            nn.init.zeros_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return network.to(torch.float32)


def continued(path: Path, unet: UNet2DConditionModel) -> ControlNet:
    """A ControlNet of a file, to be trained on over this U-Net. Raises where the two do not fit."""
    if identify(read_header(path)) is not FAMILY:
        raise UnsupportedModelError(f"'{path.name}' is no ControlNet: only those can be trained on")
    base = to_ldm(dict(unet.state_dict()))
    model = load_control_model(path, settings=settings_of(unet), base_state=base, dtype=torch.float32)
    assert isinstance(model, ControlNetModel)
    if model.pool or model.bgr:
        raise UnsupportedModelError(
            f"'{path.name}' averages its residuals, or reads hints with red and blue swapped: training knows neither, "
            "so start from another file"
        )
    check_fits(model.name, model.base, FAMILY.base({name: tuple(weight.shape) for name, weight in base.items()}))
    return model.network.requires_grad_(True).train()


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
