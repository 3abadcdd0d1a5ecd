"""When a unit acts and how strongly: progress of the run -> multiplier of the weight.

Three programs mean three things by "from 0.2 to 0.8", and a picture must not change by migrating, so the basis of a
range is part of it. An edge tells, for each step, the progress in every basis (`progress_at` helps); the schedule picks
its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum

from .errors import ScheduleError


class RangeBasis(Enum):
    """What 0..1 of a range means."""

    STEPS = "steps"  # step i of the n that this pass really runs is at i / n; the end is exclusive, so 0-0.5 is half
    NOISE = "noise"  # the noise schedule of the base model: 0 is pure noise, 1 is none; both ends inclusive (ComfyUI)
    WEBUI = "webui"  # max(i - 1, 0) / n, both ends inclusive (sd-webui-controlnet reads a counter that lags by one)


Progress = Mapping[RangeBasis, float]


class Easing(Enum):
    """How the weight moves from a keyframe to the next one; t runs from 0 to 1 between them."""

    HOLD = "hold"
    LINEAR = "linear"
    EASE_IN = "ease-in"
    EASE_OUT = "ease-out"
    EASE_IN_OUT = "ease-in-out"

    def __call__(self, t: float) -> float:
        if self is Easing.HOLD:
            return 0.0
        if self is Easing.EASE_IN:
            return t * t
        if self is Easing.EASE_OUT:
            return 1 - (1 - t) ** 2
        if self is Easing.EASE_IN_OUT:
            return (1 - math.cos(math.pi * t)) / 2
        return t


@dataclass(frozen=True, slots=True, kw_only=True)
class Keyframe:
    """At progress `at` (0..1, in the schedule's basis) the weight is multiplied by `weight`."""

    at: float
    weight: float
    easing: Easing = Easing.LINEAR  # towards the next keyframe

    def __post_init__(self) -> None:
        if not 0 <= self.at <= 1:
            raise ScheduleError(f"a keyframe is at {self.at}, expected 0 to 1")
        if not math.isfinite(self.weight):
            raise ScheduleError(f"the keyframe at {self.at} has the weight {self.weight}, expected a finite number")


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """A range, and optionally keyframes that shape the weight inside it."""

    start: float = 0.0
    end: float = 1.0
    basis: RangeBasis = RangeBasis.STEPS
    keyframes: tuple[Keyframe, ...] = field(default=())

    def __post_init__(self) -> None:
        for name, value in (("start", self.start), ("end", self.end)):
            if not 0 <= value <= 1:  # NaN fails too
                raise ScheduleError(f"the range has {name} {value}, expected 0 to 1")
        if self.start > self.end:
            raise ScheduleError(f"the range starts at {self.start}, after its end {self.end}: swap them")
        places = [frame.at for frame in self.keyframes]
        if places != sorted(set(places)):
            raise ScheduleError(f"the keyframes are at {places}, expected each place once, in rising order")

    def multiplier(self, progress: Progress) -> float:
        """Return the factor of the weight at this progress: 0 outside the range."""
        at = progress[self.basis]
        return self._curve(at) if self._contains(at) else 0.0

    def _contains(self, at: float) -> bool:
        if self.basis is RangeBasis.STEPS:
            return self.start <= at and (at < self.end or self.end == 1.0)
        return self.start <= at <= self.end

    def _curve(self, at: float) -> float:
        if not self.keyframes:
            return 1.0
        before = [frame for frame in self.keyframes if frame.at <= at]
        if not before:
            return self.keyframes[0].weight
        if len(before) == len(self.keyframes):
            return before[-1].weight
        a, b = before[-1], self.keyframes[len(before)]
        return a.weight + (b.weight - a.weight) * a.easing((at - a.at) / (b.at - a.at))


def progress_at(index: int, count: int, noise: float | None = None) -> Progress:
    """Return the progress at step `index` (from 0) of `count`, in every basis.

    noise: 0..1 along the base model's noise schedule; where the host has none, the fraction of the steps.
    """
    if not 0 <= index < count:
        raise ScheduleError(f"step {index} of {count} does not exist: steps are counted from 0")
    fraction = index / count
    return {
        RangeBasis.STEPS: fraction,
        RangeBasis.NOISE: fraction if noise is None else noise,
        RangeBasis.WEBUI: max(index - 1, 0) / count,
    }


def fires_on(schedule: Schedule, steps: Iterable[Progress]) -> tuple[int, ...]:
    """Return the indices of the steps on which a schedule is not zero."""
    return tuple(index for index, progress in enumerate(steps) if schedule.multiplier(progress))
