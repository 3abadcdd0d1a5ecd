"""Which steps of a run a unit computes, and on which it adds again what it computed before: `Reuse`, a value.

Residuals of neighbouring steps are alike (Ma, Fang and Wang, "DeepCache", CVPR 2024, observe it of the U-Net's own
features), so most of a step's residuals can be told from the two computed before it. The two schedules with a name
spread the computed steps evenly over the run: `benchmarks/reuse.py` finds that better than computing more of the first
or of the last steps, and docs/performance.md shows what each of them saves and loses. In a short run the way from one
computed step to the next would be long: some are computed at least, and in a shorter one all.

Pictures depend less on the deep blocks of a control than on its shallow ones, and a network that runs in order knows
the shallow ones first. So every second computed step stops behind them, where a model can (`ControlModel.shallow`).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from ..errors import UnitError


class Level(Enum):
    """Schedules with a name."""

    LIGHT = "light"
    STRONG = "strong"


class Extent(Enum):
    """How much of a network a step computes."""

    NOTHING = "nothing"
    SHALLOW = "shallow"
    WHOLE = "whole"


SHARES = {Level.LIGHT: (3, 5), Level.STRONG: (2, 5)}  # how many of how many steps are computed
FEWEST = {Level.LIGHT: 8, Level.STRONG: 6}  # that are computed, where the run has so many
WHOLE_EVERY = 2  # computed step of a schedule; the others compute the shallow blocks
LARGEST_STEP = 9999
MOST_CHANGE = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Reuse:
    """At most one of three; none of them computes every step.

    steps: the ones that are computed, counted from 0, in rising order. shallow: those of them at which the shallow
    blocks alone are computed. change: compute where latents or noise level have changed by so much, a share, since the
    last computed step; 0 computes every step.
    """

    level: Level | None = None
    steps: tuple[int, ...] | None = None
    shallow: frozenset[int] = frozenset()
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
        if not self.shallow <= set(self.steps or ()):
            raise UnitError(
                f"reuse computes the shallow blocks of the steps {' '.join(map(str, sorted(self.shallow)))}, expected "
                "some of the steps that are computed"
            )
        if self.change is not None and not 0 <= self.change <= MOST_CHANGE:  # NaN fails too
            raise UnitError(f"reuse has the change {self.change:g}, expected 0 to {MOST_CHANGE:g}")

    def __bool__(self) -> bool:
        """Return whether anything may be reused."""
        return self != OFF

    def extent(self, index: int, count: int) -> Extent:
        """Return how much of step `index` of `count` is computed, where that does not depend on what is sampled."""
        said = self if self.level is None else scheduled(self.level, count)
        if said.steps is not None and index not in said.steps:
            return Extent.NOTHING
        return Extent.SHALLOW if index in said.shallow else Extent.WHOLE


OFF = Reuse()


def scheduled(level: Level, count: int) -> Reuse:
    """Return a schedule as the steps of `count` that it computes."""
    some, of = SHARES[level]
    steps = spread(min(count, max(FEWEST[level], count * some // of)), count)
    whole = steps if len(steps) == count else steps[::WHOLE_EVERY]
    return Reuse(steps=steps, shallow=frozenset(steps) - frozenset(whole))


def spread(some: int, count: int) -> tuple[int, ...]:
    """Return `some` of `count` steps: the first, and those nearest to even distances from it."""
    return tuple((2 * step * count + some) // (2 * some) for step in range(some))
