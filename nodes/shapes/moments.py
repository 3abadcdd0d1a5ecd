"""Keyframes that bring a mask or block weights of their own: a unit with such is one unit for each stretch of the run.

The units share their network, and outside its stretch a unit costs nothing, so that the run computes no more than one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from torch import Tensor

from ...core.schedule import Keyframe, RangeBasis
from ...units.blocks import BlockWeights
from ..spec import UnitSpec


@dataclass(frozen=True, slots=True, eq=False)
class Moment:
    """A keyframe, and what takes the place of the unit's own mask and block weights from there on; None: that stays."""

    keyframe: Keyframe
    mask: Tensor | None = None  # [N, H, W], 1 = full effect
    block_weights: BlockWeights | None = None

    def like(self, other: Moment) -> bool:
        """Return whether it brings the same mask and block weights."""
        return self.mask is other.mask and self.block_weights is other.block_weights


Moments = tuple[Moment | Keyframe, ...]  # what nodes hand to a unit as its schedule


def curve_of(moments: Moments) -> tuple[Keyframe, ...]:
    """Return the keyframes alone: how the weight moves."""
    return tuple(each.keyframe if isinstance(each, Moment) else each for each in moments)


def units_of(spec: UnitSpec, moments: Moments) -> tuple[UnitSpec, ...]:
    """Return the unit, or one for each stretch of the run in which mask and block weights are the same."""
    stretches = list(_stretches(moments))
    if all(each.like(Moment(each.keyframe)) for each in stretches):
        return (spec,)
    pairs = zip(stretches, [*stretches[1:], None], strict=True)
    made = [_in_stretch(spec, moment, following) for moment, following in pairs]
    return tuple(unit for unit in made if unit is not None)


def _stretches(moments: Moments) -> Iterator[Moment]:
    """Yield the moments at which mask or block weights change; the first one is the beginning of the run."""
    before: Moment | None = None
    for each in moments:
        moment = each if isinstance(each, Moment) else Moment(each)
        if before is None:
            yield replace(moment, keyframe=replace(moment.keyframe, at=0.0))
        elif not moment.like(before):
            yield moment
        before = moment


def _in_stretch(spec: UnitSpec, moment: Moment, following: Moment | None) -> UnitSpec | None:
    """Return the unit from a moment to the following one, or to its own end; None where it does not act between."""
    request, exclusive = spec.request, spec.request.basis is RangeBasis.STEPS
    start, end = max(request.start, moment.keyframe.at), request.end
    if following is not None:
        end = min(end, following.keyframe.at if exclusive else math.nextafter(following.keyframe.at, 0.0))
        if end < start or (exclusive and end == start):
            return None
    if start > end:
        return None
    weights = request.block_weights if moment.block_weights is None else moment.block_weights
    within = replace(request, start=start, end=end, block_weights=weights)
    return replace(spec, request=within, mask=spec.mask if moment.mask is None else moment.mask)
