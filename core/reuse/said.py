"""Which steps of a run a unit computes, and on which it adds again what it computed before: `Reuse`, a value.

Residuals of neighbouring steps are alike (Ma, Fang and Wang, "DeepCache", CVPR 2024, observe it of the U-Net's own
features), so most of a step's residuals can be told from the two computed before it. The two schedules with a name
spread the computed steps evenly over the run: `benchmarks/reuse.py` finds that better than computing more of the first
or of the last steps, and docs/performance.md shows what each of them saves and loses. In a short run the way from one
computed step to the next would be long: some are computed at least, and in a shorter one all.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from ..errors import UnitError


class Level(Enum):
    """Schedules with a name."""

    LIGHT = "light"
    STRONG = "strong"


SHARES = {Level.LIGHT: (3, 5), Level.STRONG: (2, 5)}  # how many of how many steps are computed
FEWEST = {Level.LIGHT: 8, Level.STRONG: 6}  # that are computed, where the run has so many
LARGEST_STEP = 9999
MOST_CHANGE = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Reuse:
    """At most one of three; none of them computes every step.

    steps: the ones that are computed, counted from 0, in rising order. change: compute where latents or noise level
    have changed by so much, a share, since the last computed step; 0 computes every step.
    """

    level: Level | None = None
    steps: tuple[int, ...] | None = None
    change: float | None = None

    def __post_init__(self) -> None:
        said = [each for each in (self.level, self.steps, self.change) if each is not None]
        if len(said) > 1 or self.steps == ():
            raise UnitError("reuse is one of three: a level, a list of the steps that are computed, or a change")
        if self.steps is not None and (
            list(self.steps) != sorted(set(self.steps)) or not 0 <= self.steps[0] <= self.steps[-1] <= LARGEST_STEP
        ):
            raise UnitError(
                f"reuse names the steps {' '.join(map(str, self.steps))}, expected each once, in rising order, "
                f"from 0 to {LARGEST_STEP}"
            )
        if self.change is not None and not 0 <= self.change <= MOST_CHANGE:  # NaN fails too
            raise UnitError(f"reuse has the change {self.change:g}, expected 0 to {MOST_CHANGE:g}")

    def __bool__(self) -> bool:
        """Return whether anything may be reused."""
        return self != OFF

    def computes(self, index: int, count: int) -> bool:
        """Return whether step `index` of `count` is computed, where that does not depend on what is sampled."""
        if self.steps is not None:
            return index in self.steps
        return self.level is None or index in computed(self.level, count)


OFF = Reuse()


def computed(level: Level, count: int) -> frozenset[int]:
    """Return the steps of `count` that a schedule computes."""
    some, of = SHARES[level]
    return frozenset(spread(min(count, max(FEWEST[level], count * some // of)), count))


def spread(some: int, count: int) -> tuple[int, ...]:
    """Return `some` of `count` steps: the first, and those nearest to even distances from it."""
    return tuple((2 * step * count + some) // (2 * some) for step in range(some))
