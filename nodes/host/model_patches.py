"""Patches that nodes of the host have put on a model, such as controls of Z-Image and Qwen-Image: weighed as units are.

Such a patch is called behind a block with the tokens of the picture, `img` [B, N, C], and returns them changed. What it
has changed is multiplied by weight, curve and mask; outside the range it is not called. It keeps the strength that its
own node gave it, which it may bend.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from ...core.errors import HostError, UnitError
from ...core.schedule import RangeBasis, Schedule
from .clock import Clock

PLACES = ("double_block", "noise_refiner")  # where the host calls patches with the tokens of the picture
PATCH = 2  # latent pixels along a side of a token


def weigh_patches(before: Any, after: Any, weight: float, schedule: Schedule, mask: Tensor | None) -> Any:
    """Return the host's patcher `after` with the patches that `before` lacks weighed, and nothing else changed.

    mask: [N, H, W], 1 = full effect. UnitError where there is no such patch, or one that acts elsewhere.
    """
    made, known = after.clone(), {id(each) for found in _patches(before).values() for each in found}
    fresh = {name: [each for each in found if id(each) not in known] for name, found in _patches(after).items()}
    _check({name: found for name, found in fresh.items() if found})
    options = made.model_options["transformer_options"]
    weighed = {
        name: [Weighed(each, weight, schedule, mask, made.model) if id(each) not in known else each for each in found]
        for name, found in _patches(after).items()
    }
    made.model_options = {**made.model_options, "transformer_options": {**options, "patches": weighed}}
    return made


class Weighed:
    """One patch of the host, weighed. It is asked to move and for its networks as the patch itself."""

    def __init__(self, patch: Any, weight: float, schedule: Schedule, mask: Tensor | None, model: Any) -> None:
        """model: the host's base model, whose noise schedule it is."""
        self.patch, self._weight, self._schedule, self._mask, self._model = patch, weight, schedule, mask, model
        self._sigmas: Tensor | None = None  # of the present step, the same object for all its blocks
        self._scale = 0.0  # at that step
        self._kept: tuple[Any, Tensor] | None = None  # the mask on tokens, and what it depends on

    def __call__(self, given: dict[str, Any]) -> dict[str, Any]:
        scale = self._scale_at(given["transformer_options"])
        if not scale:
            return given
        tokens = given["img"].clone()  # patches change them in place
        found = self.patch(given)
        change = (found["img"] - tokens) * scale
        on = 1.0 if self._mask is None else self._on_tokens(self._mask, change, given["x"])
        return {**found, "img": tokens + change * on}

    def to(self, place: Any) -> Weighed:
        """Move the patch to a device, or give it another dtype."""
        if hasattr(self.patch, "to"):
            self.patch = self.patch.to(place)
        return self

    def models(self) -> list[Any]:
        """Return the host's patchers of its networks."""
        return self.patch.models() if hasattr(self.patch, "models") else []

    def _scale_at(self, options: Mapping[str, Any]) -> float:
        """Return weight times curve at a step, read once for all its blocks: each look waits for the device."""
        if options["sigmas"] is not self._sigmas:
            self._sigmas = options["sigmas"]
            self._scale = self._weight * self._schedule.multiplier(self._progress(options))
        return self._scale

    def _progress(self, options: Mapping[str, Any]) -> Mapping[RangeBasis, float]:
        marks = (self._schedule.start, self._schedule.end, *(frame.at for frame in self._schedule.keyframes))
        sigmas = options["sample_sigmas"].tolist()
        return Clock(self._model.model_sampling.percent_to_sigma, sigmas, marks).at(float(options["sigmas"][0]))

    def _on_tokens(self, mask: Tensor, change: Tensor, x: Tensor) -> Tensor:
        """Return the mask [1 or B, N, 1] on the tokens of latents x [B, C, h, w] or [B, C, frames, h, w].

        Tokens behind those of the picture fill a row up, and are not masked.
        """
        height, width = (-(-side // PATCH) for side in x.shape[-2:])
        frames = x.shape[2] if x.ndim == 5 else 1
        count = height * width * frames
        if change.shape[1] < count:
            raise UnitError(
                f"a mask cannot reach what {type(self.patch).__name__} changes: it has {change.shape[1]} tokens for "
                f"{count} places; leave the mask out"
            )
        key = (height, width, frames, change.shape[:2], change.dtype, change.device)
        if self._kept is None or self._kept[0] != key:
            small = F.interpolate(mask[:, None].to(change), (height, width), mode="bilinear")
            on = small.flatten(2).transpose(1, 2).repeat(1, frames, 1)
            if len(on) not in (1, len(change)):
                on = on[[row % len(on) for row in range(len(change))]]
            self._kept = key, F.pad(on, (0, 0, 0, change.shape[1] - count), value=1.0)
        return self._kept[1]


def _patches(patcher: Any) -> dict[str, list[Any]]:
    return patcher.model_options.get("transformer_options", {}).get("patches", {})


def _check(fresh: Mapping[str, list[Any]]) -> None:
    if not fresh:
        raise HostError("the patched model has no patch that the model lacks: connect the model before and behind it")
    elsewhere = {type(each).__name__: name for name, found in fresh.items() if name not in PLACES for each in found}
    if elsewhere:
        named = ", ".join(f"{kind} ({name})" for kind, name in elsewhere.items())
        raise UnitError(
            f"{named} acts where no weight, range or mask can reach it: use the strength and range of its own node"
        )
