"""The host's pictures -> hints, by our preprocessors, and the inputs that nodes draw from their declarations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..preprocessors import REGISTRY, find
from ..preprocessors.base import Parameter, Preprocessor

NAME = "preprocessor"
CHOICE = "preprocessor"  # of the input that chooses one; its parameters come beside it
ELSEWHERE = {"Reference", "IP-Adapter", "Revision"}  # types whose pictures no control model reads


def preprocessor_input(tooltip: str) -> io.DynamicCombo.Input:
    """The choice of a preprocessor; only the parameters of the chosen one are shown."""
    options = [io.DynamicCombo.Option(each.id, [_input(p) for p in each.parameters]) for each in _usable()]
    return io.DynamicCombo.Input(NAME, options, tooltip=tooltip)


def _usable() -> list[Preprocessor]:
    """Those whose result is a hint; the picture as it is, for controls that are no units, is not offered."""
    return [each for each in REGISTRY if ELSEWHERE.isdisjoint(each.control_types)]


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


def make_hint(image: Tensor, choice: Mapping[str, Any], resolution: int | None, mask: Tensor | None = None) -> Tensor:
    """IMAGE [N, H, W, C] -> hints [N, h, w, 3] in 0..1, and -1 where an inpainting model is to invent.

    choice: the preprocessor's id and parameters, as the host hands over a dynamic combo. resolution: the short side in
    pixels, None is the picture's own. mask: MASK [N or 1, h, w], for the preprocessors that take one.
    """
    preprocessor = find(choice[CHOICE])
    parameters = {name: value for name, value in choice.items() if name != CHOICE}
    if preprocessor.id == "none":
        return image
    given = None if mask is None or not preprocessor.takes_mask else _bytes(mask).numpy()
    hints = torch.from_numpy(preprocessor(_rgb(image), mask=given, resolution=resolution, **parameters)).float() / 255
    if hints.shape[-1] == 3:
        return hints
    return torch.where(hints[..., 3:] > 0, -1.0, hints[..., :3])  # sd-webui-controlnet's sign for "invent this"


def _rgb(image: Tensor) -> Any:
    pixels = _bytes(image[..., :3])
    return pixels.expand(*pixels.shape[:-1], 3).contiguous().numpy()


def _bytes(values: Tensor) -> Tensor:
    return (values.cpu() * 255).round().clamp(0, 255).to(torch.uint8)
