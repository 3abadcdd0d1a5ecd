"""The host's pictures -> hints, by our preprocessors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..core.base import LATENT
from ..core.errors import HintError
from ..core.resize import ResizeMode, pixel_perfect
from ..preprocessors import find
from ..preprocessors.poses.points import to_json
from .choice import CHOICE, SEED
from .host.annotators import runtime


def make_hint(image: Tensor, choice: Mapping[str, Any], resolution: int | None, mask: Tensor | None = None) -> Tensor:
    """IMAGE [N, H, W, C] -> hints [N, h, w, 3] in 0..1, and -1 where an inpainting model is to invent.

    choice: the preprocessor's id and parameters, as the host hands over a dynamic combo. resolution: the short side in
    pixels, None is the picture's own. mask: MASK [N or 1, h, w], for the preprocessors that take one.
    """
    preprocessor = find(choice[CHOICE])
    preprocessor.check_gives_hint()
    if preprocessor.id == "none":
        return image
    given = None if mask is None or not preprocessor.takes_mask else _bytes(mask).numpy()
    settings = {"mask": given, "resolution": resolution, "runtime": runtime(), "seed": choice.get(SEED, 0)}
    hints = torch.from_numpy(preprocessor(_rgb(image), **settings, **_parameters(choice))).float() / 255
    if hints.shape[-1] == 3:
        return hints
    return torch.where(hints[..., 3:] > 0, -1.0, hints[..., :3])  # sd-webui-controlnet's sign for "invent this"


def make_poses(image: Tensor, choice: Mapping[str, Any], resolution: int | None) -> tuple[Tensor, list[Any]] | None:
    """Hints [N, h, w, 3] and the poses that they show, as JSON; None if the chosen preprocessor finds no poses."""
    preprocessor = find(choice[CHOICE])
    if not preprocessor.finds_poses:
        return None
    found = preprocessor.poses(_rgb(image), resolution=resolution, runtime=runtime())
    drawn = [torch.from_numpy(preprocessor.draw(pose, **_parameters(choice))) for pose in found]
    return torch.stack(drawn).float() / 255, [to_json(pose) for pose in found]


def resolution_of(image: Tensor, resolution: int, latent: Mapping[str, Any] | None, resize: ResizeMode) -> int | None:
    """The short side in pixels at which the preprocessor works; None is the picture's own."""
    if latent is None:
        return resolution or None
    if resolution:
        raise HintError(f"both a resolution ({resolution}) and a latent are given: set the resolution to 0")
    height, width = (side * LATENT for side in latent["samples"].shape[-2:])
    return pixel_perfect((image.shape[1], image.shape[2]), (height, width), resize)


def _parameters(choice: Mapping[str, Any]) -> dict[str, Any]:
    """What the chosen preprocessor itself is asked."""
    return {name: value for name, value in choice.items() if name not in (CHOICE, SEED)}


def _rgb(image: Tensor) -> Any:
    pixels = _bytes(image[..., :3])
    return pixels.expand(*pixels.shape[:-1], 3).contiguous().numpy()


def _bytes(values: Tensor) -> Tensor:
    return (values.cpu() * 255).round().clamp(0, 255).to(torch.uint8)
