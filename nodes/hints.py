"""The host's pictures -> hints, by our preprocessors, and the inputs that nodes draw from their declarations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..preprocessors import REGISTRY, find
from ..preprocessors.base import Parameter

NAME = "preprocessor"
CHOICE = "preprocessor"  # of the input that chooses one; its parameters come beside it


def preprocessor_input(tooltip: str) -> io.DynamicCombo.Input:
    """The choice of a preprocessor; only the parameters of the chosen one are shown."""
    options = [io.DynamicCombo.Option(each.id, [_input(p) for p in each.parameters]) for each in REGISTRY]
    return io.DynamicCombo.Input(NAME, options, tooltip=tooltip)


def _input(parameter: Parameter) -> io.WidgetInput:
    kind = io.Int if parameter.integer else io.Float
    return kind.Input(
        parameter.name,
        display_name=parameter.label,
        default=parameter.default,
        min=parameter.minimum,
        max=parameter.maximum,
        step=parameter.step,
        tooltip=parameter.doc,
    )


def make_hint(image: Tensor, choice: Mapping[str, Any], resolution: int | None) -> Tensor:
    """IMAGE [N, H, W, C] -> hints [N, h, w, 3] in 0..1.

    choice: the preprocessor's id and parameters, as the host hands over a dynamic combo. resolution: the short side in
    pixels, None is the picture's own.
    """
    preprocessor = find(choice[CHOICE])
    parameters = {name: value for name, value in choice.items() if name != CHOICE}
    if preprocessor.id == "none":
        return image
    pixels = (image[..., :3].cpu() * 255).round().clamp(0, 255).to(torch.uint8)
    if pixels.shape[-1] == 1:
        pixels = pixels.expand(*pixels.shape[:-1], 3)
    hints = preprocessor(pixels.numpy(), resolution=resolution, **parameters)
    return torch.from_numpy(hints).float() / 255
