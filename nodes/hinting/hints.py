"""The host's pictures -> hints, by our preprocessors, and what a choice on a node asks for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...core.control import ControlModel
from ...core.embedding import Embedding, Values
from ...core.errors import HintError, UnitError
from ...core.network.base import LATENT
from ...preprocessors import Preprocessor
from ...preprocessors.poses.points import to_json
from ...units.convention import chosen
from ...units.hint import Size, cards, draw_hint, fitting, hint_tensor
from ...units.offer import preprocessor_of
from ...units.options import bound
from ...units.request import NONE, UnitRequest
from ..choice import CHOICE, SEED
from ..host.annotators import runtime
from ..host.member import says


def asked(choice: Mapping[str, Any], **more: Any) -> UnitRequest:
    """Return the request of a chosen preprocessor, as the host hands over a dynamic combo. more: further fields.

    What a prompt through the API leaves out is None there, and at its default here.
    """
    parameters = {name: value for name, value in choice.items() if name not in (CHOICE, SEED) and value is not None}
    return UnitRequest(preprocessor=choice[CHOICE], parameters=parameters, seed=choice.get(SEED), **more)


def make_hint(request: UnitRequest, image: Tensor, mask: Tensor | None = None, target: Size | None = None) -> Tensor:
    """Return hints [N, h, w, 3] of IMAGE [N, H, W, C] in 0..1, with -1 where an inpainting model is to invent.

    What an encoder sees is [N, T, D].

    mask: MASK [N or 1, h, w], what is to be invented. target: height and width of the result, for pixel perfect units.
    """
    if preprocessor_of(request).id == NONE and mask is None:
        return image
    drawn = draw_hint(
        request, rgb(image), inpaint_mask=None if mask is None else _bytes(mask).numpy(), target=target,
        runtime=runtime(),
    )  # fmt: skip
    hint = hint_tensor(drawn)
    return hint if isinstance(drawn, Tensor) else hint.movedim(1, -1)


def make_poses(request: UnitRequest, image: Tensor) -> tuple[Tensor, list[Any]] | None:
    """Return hints [N, h, w, 3] and the poses that they show, as JSON; None if the preprocessor finds no poses."""
    preprocessor = preprocessor_of(request)
    if not preprocessor.finds_poses:
        return None
    found = preprocessor.poses(rgb(image), resolution=request.resolution, runtime=runtime())
    parameters: dict[str, Any] = dict(request.parameters)
    drawn = [torch.from_numpy(preprocessor.draw(pose, **parameters)) for pose in found]
    return torch.stack(drawn).float() / 255, [to_json(pose) for pose in found]


def as_read(request: UnitRequest, control: Any) -> UnitRequest:
    """Return the request with the preprocessor that a CONTROL_NET's file names, or whose embedding it reads."""
    own = getattr(control, "own", None)
    if own is None:
        return chosen(request, says(control))
    model = bound(request, own.model)
    return fitting(chosen(request, says(control), model.embedding), model)


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """What a preprocessor of ours saw in pictures, in place of the host's CLIP_VISION_OUTPUT."""

    hint: Tensor  # [N, T, D]
    embedding: Embedding | None

    @property
    def last_hidden_state(self) -> Tensor:
        """Other nodes read it by this name."""
        return self.hint


def embedding_of(seen: Any, model: ControlModel) -> Tensor:
    """Return what an image encoder saw in pictures, the host's CLIP_VISION_OUTPUT or ours, as the model reads it.

    HintError for another encoder's. The host's output has nothing of a grey picture; zeros take its place.
    """
    wanted = model.embedding
    if isinstance(seen, Encoded):
        if wanted != seen.embedding:
            raise HintError(f"'{model.name}' reads {wanted}, and the preprocessor gave {seen.embedding}: choose auto")
        return seen.hint
    if wanted is not None and wanted.values is Values.IMAGE:
        return seen.image_embeds[:, None]
    if wanted is not None and wanted.values is Values.STATES:
        states = seen.penultimate_hidden_states
        return torch.cat([states, torch.zeros_like(states)], dim=-1)
    return seen.last_hidden_state


def card(image: Tensor, preprocessor: Preprocessor) -> Tensor:
    """Return pictures [N, h, w, 3] that stand for what a preprocessor's encoder saw in IMAGE [N, H, W, C]."""
    return torch.from_numpy(cards(rgb(image), preprocessor.title)).float() / 255


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
