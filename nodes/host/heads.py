"""Shifts at the heads of the cross-attention, through the patch of the host that replaces an attention in one call.

The host hands queries, keys and values to it and projects what it returns. What another node has put there, by the
number of its block or of the transformer block inside it, computes first; ours adds to that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from comfy.ldm.modules.attention import optimized_attention
from torch import Tensor

from ...core.network.points import Point

REPLACED, ATTENTION = "patches_replace", "attn2"  # in the options of a call
Replaced = Mapping[str, Mapping[Any, Any]]


@dataclass(frozen=True, slots=True, eq=False)
class Heads:
    """The attention that stands at one place, with a shift of its queries added. before: another node's; or None."""

    shift: Callable[[Tensor], Tensor]
    before: Callable[..., Tensor] | None

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, options: Mapping[str, Any]) -> Tensor:
        if self.before is not None:
            answer = self.before(q, k, v, options)
        else:
            answer = optimized_attention(q, k, v, options["n_heads"], attn_precision=options.get("attn_precision"))
        return answer + self.shift(q).to(answer.dtype)


def with_heads(replaced: Replaced, shifts: Mapping[Point, Callable[[Tensor], Tensor]]) -> dict[str, Any]:
    """Return the replacements of a call with ours, in tables of their own: others share theirs between calls."""
    theirs = dict(replaced.get(ATTENTION, {}))
    ours: dict[Any, Any] = {}
    for point, shift in shifts.items():
        block = (point.block.value, point.index)
        before = theirs.get((*block, point.depth), theirs.get(block))
        ours[(*block, point.depth)] = Heads(shift, before)
    return {**replaced, ATTENTION: {**theirs, **ours}}


def without_heads(replaced: Replaced) -> dict[str, Any]:
    """Return the replacements of a call as they were without ours."""
    theirs: dict[Any, Any] = {}
    for key, each in replaced.get(ATTENTION, {}).items():
        if not isinstance(each, Heads):
            theirs[key] = each
        elif each.before is not None and each.before is not replaced[ATTENTION].get(key[:2]):
            theirs[key] = each.before
    return {**replaced, ATTENTION: theirs}
