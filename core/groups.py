"""The units that act at a step, and which of them are computed in one call.

Units on the same network are one batch. Units on different networks of one shape can be computed beside each other,
where their models offer it (`ControlModel.shape`) and the program that runs the stack allows it.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import NamedTuple

from .control import ControlModel
from .network.points import Point
from .reuse.residuals import Line
from .unit import ControlUnit


class Active(NamedTuple):
    """A unit that acts at this step, with the factor and the rows of the moment.

    A unit that computes some of its points and adds at others what is kept is two of them.
    """

    unit: ControlUnit
    scales: dict[Point, float]
    multiplier: float
    rows: tuple[int, ...]
    number: int  # of the unit in its stack
    line: Line | None = None  # where its residuals are kept
    computes: bool = True  # its network runs, and it does not only add what is kept


class Group(NamedTuple):
    """Units that one call serves, on the same rows; each has its part of the batch, in order."""

    model: ControlModel  # what is called
    actives: list[Active]

    @property
    def rows(self) -> tuple[int, ...]:
        """Return the rows of each unit."""
        return self.actives[0].rows

    @property
    def batch(self) -> tuple[int, ...]:
        """Return the rows of the whole batch."""
        return self.rows * len(self.actives)


class Groups:
    """How the units of a run are grouped, and the models that were put beside each other for it."""

    def __init__(self, units: Iterable[ControlUnit], *, beside: bool) -> None:
        """beside: networks of one shape are computed in one call."""
        self._shapes = [unit.model.shape if beside else None for unit in units]
        self._together: dict[tuple[int, ...], ControlModel] = {}  # by the numbers of their units

    def of(self, actives: Iterable[Active]) -> list[Group]:
        """Return the units in groups, in the order of each group's first unit."""
        groups: dict[Hashable, list[Group]] = {}
        for group in _by_network(actives):
            groups.setdefault(self._key(group), []).append(group)
        return [group[0] if len(group) == 1 else self._joined(group) for group in groups.values()]

    def _key(self, group: Group) -> Hashable:
        """Return what groups have in common that one call can serve: as many units each, which is one here."""
        first = group.actives[0]
        shape = self._shapes[first.number]
        if shape is None or len(group.actives) > 1 or not first.computes:
            return first.number, first.computes
        return shape, first.rows

    def _joined(self, groups: list[Group]) -> Group:
        actives = [active for group in groups for active in group.actives]
        numbers = tuple(active.number for active in actives)
        if numbers not in self._together:
            first, *others = (group.model for group in groups)
            self._together[numbers] = first.joined(others)
        return Group(self._together[numbers], actives)


def _by_network(actives: Iterable[Active]) -> list[Group]:
    """Group units that the same network can serve in one call: with the same options, on the same rows.

    A unit that only adds what is kept is a group of its own.
    """
    groups: dict[Hashable, Group] = {}
    for active in actives:
        alone = None if active.computes else active.number
        key = (active.unit.model.sameness, active.rows, alone)
        groups.setdefault(key, Group(active.unit.model, [])).actives.append(active)
    return list(groups.values())
