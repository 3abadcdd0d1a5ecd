"""The host's pictures -> hints, by our preprocessors, and what a choice on a node asks for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..core.base import LATENT
from ..core.errors import HintError, UnitError
from ..preprocessors.poses.points import to_json
from ..units.hint import Size, draw_hint, hint_tensor, preprocessor_of
from ..units.request import NONE, UnitRequest
from .choice import CHOICE, SEED
from .host.annotators import runtime


def asked(choice: Mapping[str, Any], **more: Any) -> UnitRequest:
    """Return the request of a chosen preprocessor, as the host hands over a dynamic combo. more: further fields.

    What a prompt through the API leaves out is None there, and at its default here.
    """
    parameters = {name: value for name, value in choice.items() if name not in (CHOICE, SEED) and value is not None}
    return UnitRequest(preprocessor=choice[CHOICE], parameters=parameters, seed=choice.get(SEED), **more)


def make_hint(request: UnitRequest, image: Tensor, mask: Tensor | None = None, target: Size | None = None) -> Tensor:
    """Return hints [N, h, w, 3] of IMAGE [N, H, W, C] in 0..1, with -1 where an inpainting model is to invent.

    mask: MASK [N or 1, h, w], what is to be invented. target: height and width of the result, for pixel perfect units.
    """
    if preprocessor_of(request).id == NONE and mask is None:
        return image
    drawn = draw_hint(
        request, rgb(image), inpaint_mask=None if mask is None else _bytes(mask).numpy(), target=target,
        runtime=runtime(),
    )  # fmt: skip
    return hint_tensor(drawn).movedim(1, -1)


def make_poses(request: UnitRequest, image: Tensor) -> tuple[Tensor, list[Any]] | None:
    """Return hints [N, h, w, 3] and the poses that they show, as JSON; None if the preprocessor finds no poses."""
    preprocessor = preprocessor_of(request)
    if not preprocessor.finds_poses:
        return None
    found = preprocessor.poses(rgb(image), resolution=request.resolution, runtime=runtime())
    parameters: dict[str, Any] = dict(request.parameters)
    drawn = [torch.from_numpy(preprocessor.draw(pose, **parameters)) for pose in found]
    return torch.stack(drawn).float() / 255, [to_json(pose) for pose in found]


def embedding_of(seen: Any, name: str) -> Tensor:
    """Return what an image encoder saw in pictures, the host's CLIP_VISION_OUTPUT, as [N, T, D]."""
    if seen is None:
        raise HintError(f"'{name}' reads what an image encoder saw: connect the host's CLIP Vision Encode to embedding")
    return seen.last_hidden_state


def size_of(latent: Mapping[str, Any] | None, resolution: int = 0) -> Size | None:
    """Return height and width in pixels of latents; None without. UnitError where a resolution is given as well."""
    if latent is None:
        return None
    if resolution:
        raise UnitError(f"both a resolution ({resolution}) and a latent are given: set the resolution to 0")
    height, width = (side * LATENT for side in latent["samples"].shape[-2:])
    return height, width


def rgb(image: Tensor) -> Any:
    """Return IMAGE [N, H, W, C] as uint8 RGB [N, H, W, 3]."""
    pixels = _bytes(image[..., :3])
    return pixels.expand(*pixels.shape[:-1], 3).contiguous().numpy()


def _bytes(values: Tensor) -> Tensor:
    return (values.cpu() * 255).round().clamp(0, 255).to(torch.uint8)
