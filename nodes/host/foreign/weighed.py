"""One patch of the host under weight, curve and mask: a wrapper for each place where the host calls patches.

What a patch has changed is multiplied. It is called behind a block with the tokens of the picture; or, as Anima's
LLLite, before the first block, where it reads its hint, and then with the inputs of each attention and MLP. Where
weight times curve is 0 it is not called.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from ....core.errors import UnitError
from ....core.schedule import RangeBasis, Schedule
from ..clock import Clock

PATCH = 2  # latent pixels along a side of a token


class Amount:
    """How much of a patch counts: weight times curve at a step, and the mask on its tokens.

    All wrappers of one control share it, since only some of its places are shown the latents.
    """

    def __init__(self, weight: float, schedule: Schedule, mask: Tensor | None, model: Any) -> None:
        """mask: [N, H, W], 1 = full effect. model: the host's base model, whose noise schedule it is."""
        self._weight, self._schedule, self._mask, self._model = weight, schedule, mask, model
        self._grid: tuple[int, int, int] | None = None  # frames, height and width in tokens
        self._sigmas: Tensor | None = None  # of the present step, the same object for all its blocks
        self._scale = 0.0  # at that step
        self._kept: tuple[Any, Tensor] | None = None  # the mask on tokens, and what it depends on

    def see(self, x: Tensor) -> None:
        """Learn the size from latents x [B, C, h, w] or [B, C, frames, h, w]."""
        height, width = (-(-side // PATCH) for side in x.shape[-2:])
        self._grid = (x.shape[2] if x.ndim == 5 else 1), height, width

    def at(self, options: Mapping[str, Any]) -> float:
        """Return weight times curve at a step, read once for all its blocks: each look waits for the device."""
        if options["sigmas"] is not self._sigmas:
            self._sigmas = options["sigmas"]
            self._scale = self._weight * self._schedule.multiplier(self._progress(options))
        return self._scale

    def share(self, before: Tensor, after: Tensor, scale: float, name: str) -> Tensor:
        """Return tokens [B, N, C] with that part of their change. name: of the patch, for messages."""
        change = (after - before) * scale
        return before + (change if self._mask is None else change * self._on_tokens(self._mask, change, name))

    def _progress(self, options: Mapping[str, Any]) -> Mapping[RangeBasis, float]:
        marks = (self._schedule.start, self._schedule.end, *(frame.at for frame in self._schedule.keyframes))
        sigmas = options["sample_sigmas"].tolist()
        return Clock(self._model.model_sampling.percent_to_sigma, sigmas, marks).at(float(options["sigmas"][0]))

    def _on_tokens(self, mask: Tensor, change: Tensor, name: str) -> Tensor:
        """Return the mask [1 or B, N, 1] on the tokens; those behind the picture's fill a row up and are not masked."""
        assert self._grid is not None
        frames, height, width = self._grid
        count = height * width * frames
        if change.shape[1] < count:
            raise UnitError(
                f"a mask cannot reach what {name} changes: it has {change.shape[1]} tokens for {count} places; leave "
                "the mask out"
            )
        key = (self._grid, change.shape[:2], change.dtype, change.device)
        if self._kept is None or self._kept[0] != key:
            small = F.interpolate(mask[:, None].to(change), (height, width), mode="bilinear")
            on = small.flatten(2).transpose(1, 2).repeat(1, frames, 1)
            if len(on) not in (1, len(change)):
                on = on[[row % len(on) for row in range(len(change))]]
            self._kept = key, F.pad(on, (0, 0, 0, change.shape[1] - count), value=1.0)
        return self._kept[1]


class Weighed:
    """A patch under an amount. It is asked to move and for its networks as the patch itself."""

    def __init__(self, patch: Any, amount: Amount) -> None:
        self.patch, self.amount, self.name = patch, amount, type(patch).__name__

    def to(self, place: Any) -> Weighed:
        """Move the patch to a device, or give it another dtype."""
        if hasattr(self.patch, "to"):
            self.patch = self.patch.to(place)
        return self

    def models(self) -> list[Any]:
        """Return the host's patchers of its networks."""
        return self.patch.models() if hasattr(self.patch, "models") else []


class WeighedTokens(Weighed):
    """Behind a block: it changes the tokens `img` [B, N, C]."""

    def __call__(self, given: dict[str, Any]) -> dict[str, Any]:
        scale = self.amount.at(given["transformer_options"])
        if not scale:
            return given
        self.amount.see(given["x"])
        tokens = given["img"].clone()  # patches change them in place
        found = self.patch(given)
        return {**found, "img": self.amount.share(tokens, found["img"], scale, self.name)}


class WeighedBegin(Weighed):
    """Before the first block: it reads its hint, or where it does not act, none, and then changes nothing later."""

    def __call__(self, given: dict[str, Any]) -> dict[str, Any]:
        self.amount.see(given["x"])
        return self.patch(given) if self.amount.at(given["transformer_options"]) else given


class WeighedAttention(Weighed):
    """Before an attention: it changes the inputs of queries, keys and values, each [B, N, C]."""

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, **more: Any) -> dict[str, Any]:
        scale, given = self.amount.at(more["extra_options"]), {"q": q, "k": k, "v": v}
        if not scale:
            return {}
        found = self.patch(**given, **more)
        changed = [name for name, each in given.items() if found.get(name, each) is not each]
        return {**found, **{each: self.amount.share(given[each], found[each], scale, self.name) for each in changed}}


class WeighedMLP(Weighed):
    """Before an MLP: it changes its input `x` [B, frames, H, W, C]."""

    def __call__(self, given: dict[str, Any]) -> dict[str, Any]:
        scale, x = self.amount.at(given["transformer_options"]), given["x"]
        if not scale:
            return given
        found = self.patch({**given})
        before, after = (each.flatten(1, -2) for each in (x, found["x"]))
        return {**found, "x": self.amount.share(before, after, scale, self.name).reshape(x.shape)}


BEHIND = {"double_block": WeighedTokens, "noise_refiner": WeighedTokens}  # places of the host
BEFORE = {
    "post_input": WeighedBegin,
    "attn1_patch": WeighedAttention,
    "attn2_patch": WeighedAttention,
    "mlp_patch": WeighedMLP,
}
