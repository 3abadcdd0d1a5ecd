"""How a control image is brought to the size of the picture: the geometry for everyone, and the pixels of a tensor.

The geometry follows sd-webui-controlnet (`detectmap_proc`, `external_code.pixel_perfect_resolution`), because users
know its three modes by name. Images of uint8 are resized by `preprocessors/resize.py` from the same geometry.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import HintError
from .modes import ResizeMode

FEW_COLOURS = 200  # up to here a hint is a drawing or a label map, and blending its colours would invent new ones
PICTURE = 3  # channels of one picture
SAMPLE = 4096  # pixels looked at to count colours


@dataclass(frozen=True, slots=True)
class Fit:
    """Scale a picture to `scaled` (height, width), then put its corner at (`top`, `left`) of the target.

    Positive offsets leave a margin (fill), negative ones are cut off (crop).
    """

    scaled: tuple[int, int]
    top: int
    left: int


def fit_geometry(source: tuple[int, int], target: tuple[int, int], mode: ResizeMode) -> Fit:
    """Return where a picture of size `source` goes in one of size `target`; sizes are (height, width) in pixels."""
    if min(*source, *target) < 1:
        raise HintError(f"cannot resize {source[1]}x{source[0]} to {target[1]}x{target[0]}: sizes start at 1 pixel")
    if mode is ResizeMode.JUST_RESIZE:
        return Fit(target, 0, 0)
    ratios = (target[0] / source[0], target[1] / source[1])
    k = max(ratios) if mode is ResizeMode.CROP else min(ratios)
    height, width = (max(1, round(side * k)) for side in source)
    if mode is ResizeMode.CROP:
        return Fit((height, width), -((height - target[0]) // 2), -((width - target[1]) // 2))
    return Fit((height, width), (target[0] - height) // 2, (target[1] - width) // 2)


def pixel_perfect(source: tuple[int, int], target: tuple[int, int], mode: ResizeMode) -> int:
    """Return the preprocessor resolution (short side, pixels) that loses and invents no detail.

    Sizes are (height, width) in pixels.

    Source: sd-webui-controlnet, `external_code.pixel_perfect_resolution`.
    """
    ratios = (target[0] / source[0], target[1] / source[1])
    k = min(ratios) if mode is ResizeMode.FILL else max(ratios)
    return round(k * min(source))


def fit(hint: Tensor, target: tuple[int, int], mode: ResizeMode) -> Tensor:
    """Bring `hint` [N, C, H, W] to [N, C, *target]; the same tensor when it already has that size.

    Black-and-white drawings stay black and white (shrinking keeps the brightest pixel, so that lines survive), label
    maps keep their colours, photographs and gradients are filtered bicubically. Several pictures, each three of the
    channels, are fitted one by one.
    """
    if hint.shape[1] > PICTURE and hint.shape[1] % PICTURE == 0:
        return torch.cat([fit(each, target, mode) for each in hint.chunk(hint.shape[1] // PICTURE, dim=1)], dim=1)
    source = (hint.shape[-2], hint.shape[-1])
    if source == target:
        return hint
    place = fit_geometry(source, target, mode)
    scaled = _scale(hint, place.scaled)
    if place.scaled == target:
        return scaled
    if mode is ResizeMode.CROP:
        return scaled[..., -place.top : target[0] - place.top, -place.left : target[1] - place.left]
    canvas = _border_colour(hint).expand(*scaled.shape[:2], *target).clone()
    canvas[..., place.top : place.top + scaled.shape[-2], place.left : place.left + scaled.shape[-1]] = scaled
    return canvas


def _scale(hint: Tensor, size: tuple[int, int]) -> Tensor:
    if (hint.shape[-2], hint.shape[-1]) == size:
        return hint
    colours = _count_colours(hint)
    if colours <= 2 and size[0] <= hint.shape[-2] and size[1] <= hint.shape[-1]:
        return F.adaptive_max_pool2d(hint, size)
    if colours < FEW_COLOURS:
        return F.interpolate(hint, size, mode="nearest-exact")
    low, high = hint.amin(), hint.amax()  # bicubic overshoots; the hint's own range also allows the -1 of inpainting
    return F.interpolate(hint, size, mode="bicubic", antialias=True).clamp(low, high)


def _count_colours(hint: Tensor) -> int:
    """Count the colours in an even sample of the first picture; a full count would take seconds."""
    pixels = hint[0].flatten(1)
    stride = max(1, pixels.shape[1] // SAMPLE)
    colours = cast(Tensor, torch.unique(pixels[:, ::stride], dim=1))  # pyright: ignore[reportUnknownMemberType]
    return colours.shape[1]


def _border_colour(hint: Tensor) -> Tensor:
    """Return the median of the four border lines for each picture and channel, [N, C, 1, 1]."""
    lines = (hint[..., :1, :], hint[..., -1:, :], hint[..., :, :1], hint[..., :, -1:])
    border = torch.cat([line.flatten(2) for line in lines], dim=2)
    return border.median(dim=2).values[..., None, None]
