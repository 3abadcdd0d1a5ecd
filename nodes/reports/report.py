"""What a run did with its units, in numbers and words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ...core.firing import Firing
from ...core.schedule import Progress, RangeBasis
from ...core.unit import ControlUnit

MEGABYTE = 2**20


@dataclass(frozen=True, slots=True)
class UnitReport:
    """One unit in one run. curve: (share of the steps done, weight) at every step of the pass."""

    name: str
    firing: Firing
    curve: tuple[tuple[float, float], ...]
    seconds: float  # in its network, all steps together; units that share a network are timed together
    size: int  # bytes of its weights
    more: str = ""  # what a step costs beside its network
    idle: str = ""  # why it never acted, where the pass had steps

    def __str__(self) -> str:
        line = f"{self.name}: fires on {self.firing.on_steps}{self.firing.remark}"
        if not self.firing.fired:
            return f"{line} (it never acted: {self.idle})" if self.idle else line
        each = self.seconds / max(1, self.firing.ran)
        return f"{line}{self.more}, {each:.2f} s each, {self.size / MEGABYTE:.0f} MB"


Report = tuple[UnitReport, ...]


def curve_of(unit: ControlUnit, steps: list[Progress], strength: float) -> tuple[tuple[float, float], ...]:
    """Return the weight over the steps of a pass; strength: how much of it is not in the unit."""
    weight = unit.weight * strength
    return tuple((at[RangeBasis.STEPS], weight * unit.schedule.multiplier(at)) for at in steps)


def lines(report: Report) -> Iterator[str]:
    """Yield what people read, a line for each unit."""
    yield from (f"{number}. {each}" for number, each in enumerate(report, start=1))
