"""Shifts as the patches that Forge's family calls inside its U-Net, in the options of one evaluation.

The program knows what others patch and in which order, and calls its patches also where somebody has replaced an
attention. They live in the options of one call, so nothing has to be undone. A tensor at the same point stands in the
program's lists of controls, which it adds before these patches see the stream.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from .....core.network.points import Block, Part, Point, onward, skip, stream

Shifts = Mapping[Point, Callable[[Tensor], Tensor]]
Options = dict[str, Any]
TRIPLE = {"attn1": (Part.ATTN1_Q, Part.ATTN1_K, Part.ATTN1_V), "attn2": (Part.ATTN2_Q, Part.ATTN2_K, Part.ATTN2_V)}
OUT = {"attn1": Part.ATTN1_OUT, "attn2": Part.ATTN2_OUT}


def has_patch(point: Point) -> bool:
    """Return whether the program has a patch for a point.

    It has none behind the middle block, nor behind the decoder's, nor in transformers, and at the heads of attention
    only one that replaces the attention and may be somebody else's.
    """
    if point.part is Part.ATTN2_HEADS or point.block is Block.LAYER:
        return False
    return point.part is not Part.STREAM or point.block is Block.INPUT


def write(shifts: Shifts, options: Options, blocks: int) -> None:
    """Put shifts at points that have a patch into the options of a call, instead of ours that are there.

    blocks: how many input blocks the U-Net has. Others that draw in tiles use one call's options for several.
    """
    theirs = {
        name: [patch for patch in patches if not isinstance(patch, Patch)]
        for name, patches in options.get("patches", {}).items()
    }
    for name, patch in _patches(shifts, blocks).items():
        theirs[name] = [*theirs.get(name, ()), patch]
    if theirs:
        options["patches"] = theirs  # anew: the dictionary that was there is the patcher's


class Patch:
    """One of the program's patches: what stands at some points, changed."""

    def __init__(self, shifts: Shifts, blocks: int) -> None:
        self._shifts, self._blocks = shifts, blocks

    def _shifted(self, h: Tensor, point: Point) -> Tensor:
        shift = self._shifts.get(point)
        return h if shift is None else h + shift(h)


class StreamPatch(Patch):
    """Behind an input block."""

    def __call__(self, h: Tensor, options: Options) -> Tensor:
        return self._shifted(h, stream(options["block"][1]))


class OnwardPatch(Patch):
    """Between an input block and what follows it, once the skip is taken."""

    def __call__(self, h: Tensor, options: Options) -> Tensor:
        return self._shifted(h, onward(options["block"][1]))


class SkipPatch(Patch):
    """Before an output block, which receives its stream and the skip."""

    def __call__(self, h: Tensor, taken: Tensor, options: Options) -> tuple[Tensor, Tensor]:
        return h, self._shifted(taken, skip(self._blocks - 1 - options["block"][1]))


class AttentionPatch(Patch):
    """Before the projections of an attention."""

    def __init__(self, shifts: Shifts, blocks: int, name: str) -> None:
        super().__init__(shifts, blocks)
        self._parts = TRIPLE[name]

    def __call__(self, q: Tensor, k: Tensor, v: Tensor | None, options: Options) -> tuple[Tensor, Tensor, Tensor]:
        values = (q, k, k if v is None else v)
        q, k, v = (self._shifted(h, _point(part, options)) for h, part in zip(values, self._parts, strict=True))
        return q, k, v


class OutputPatch(Patch):
    """Behind an attention."""

    def __init__(self, shifts: Shifts, blocks: int, name: str) -> None:
        super().__init__(shifts, blocks)
        self._part = OUT[name]

    def __call__(self, h: Tensor, options: Options) -> Tensor:
        return self._shifted(h, _point(self._part, options))


def _patches(shifts: Shifts, blocks: int) -> dict[str, Patch]:
    """Return the patches that shifts need, by the program's names for them."""
    parts = {point.part for point in shifts if has_patch(point)}
    found: dict[str, Patch] = {}
    if Part.STREAM in parts:
        found["input_block_patch"] = StreamPatch(shifts, blocks)
    if Part.ONWARD in parts:
        found["input_block_patch_after_skip"] = OnwardPatch(shifts, blocks)
    if Part.SKIP in parts:
        found["output_block_patch"] = SkipPatch(shifts, blocks)
    for name, triple in TRIPLE.items():
        if parts.intersection(triple):
            found[f"{name}_patch"] = AttentionPatch(shifts, blocks, name)
        if OUT[name] in parts:
            found[f"{name}_output_patch"] = OutputPatch(shifts, blocks, name)
    return found


def _point(part: Part, options: Options) -> Point:
    """Return the point at which a transformer block calls its patches."""
    block, index = options["block"][:2]
    return Point(Block(block), index, part, options.get("block_index", 0))
