"""What units added at earlier steps of a run, kept so that later steps can add it again: `Residuals`.

Residuals are kept as the model gave them, before weight, mask and rows: those of the moment are applied to them as to
new ones. Two sets are kept for each unit and each row of the host's batch, and a step that is not computed gets the
straight line through both, at its own place on the noise schedule:

    r(t) = r1 + (r1 - r0) * (t - t1) / (t1 - t0)

but no further beyond t1 than the way from t0 to t1, for far from both the line says nothing. One set alone stays as it
is. Each point has a line of its own, for the shallow ones may have been computed at more steps than the deep ones.
What is reused was computed in the same pass of the sampler, at an earlier step, for the same unit, part of the picture,
size, picture and prompt. Where there is no such thing, the step is computed.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..network.effects import Effect
from ..network.points import CONDITIONS, Point
from ..network.rows import take_rows
from ..schedule import RangeBasis
from ..step import Step, version_of
from ..unit import ControlUnit
from .said import Extent

SLACK = 1e-4  # of the noise schedule: samplers compute with noise levels and come back a rounding away
NO_STEP = "the sampler does not say which step it is at"
NO_RESIDUALS = "its model does not only add residuals"

Maps = dict[Point, Tensor]  # residuals as the model gave them, [rows or 1, ...]


@dataclass(frozen=True, slots=True, eq=False)
class _Residual:
    """A residual of one evaluation, its place on the noise schedule, and the residual that was computed before it."""

    tensor: Tensor
    place: float
    before: _Residual | None = None

    def at(self, place: float) -> Tensor:
        """Return the residual at a place on the noise schedule."""
        way = 0.0 if self.before is None else self.place - self.before.place
        share = max(-1.0, min((place - self.place) / way, 1.0)) if way else 0.0
        if self.before is None or not share:
            return self.tensor
        return torch.lerp(self.before.tensor, self.tensor, 1 + share)

    @property
    def bytes(self) -> int:
        """Return how many bytes it holds, with the one before it."""
        own = self.tensor.numel() * self.tensor.element_size()
        return own if self.before is None else own + self.before.bytes


class Line:
    """The residuals of one unit for the same rows of one batch, at the last two computed evaluations."""

    def __init__(self, prompt: object) -> None:
        """Hold nothing yet. prompt: the object that stands for its values, or the context's tensor."""
        self._prompt, self._version = prompt, version_of(prompt)
        self._residuals: dict[Point, _Residual] = {}
        self._x: Tensor | None = None  # of the last computed evaluation, where latents are compared
        self._place = 0.0  # of the same
        self.step = 0  # at which it was used last

    def is_of(self, prompt: object) -> bool:
        """Return whether a prompt has the values of the line's. Of two tensors, waits for the device."""
        if version_of(self._prompt) != self._version:
            return False
        if self._prompt is prompt:
            return True
        if not isinstance(self._prompt, Tensor) or not isinstance(prompt, Tensor):
            return False
        return self._prompt.shape == prompt.shape and torch.equal(self._prompt, prompt)

    @property
    def empty(self) -> bool:
        """Return whether nothing was computed yet."""
        return not self._residuals

    def changed(self, x: Tensor, place: float) -> float:
        """Return by what share latents and noise level have changed since the last computed evaluation.

        It is the larger of both: |x - x1| / |x1| of the latents' Euclidean norms, and the way on the noise schedule.
        Waits for the device.
        """
        assert self._x is not None
        before = self._x.float()
        moved = (x.float() - before).square().sum() / before.square().sum()
        return max(float(moved) ** 0.5, abs(place - self._place))

    def put(self, maps: Maps, place: float, x: Tensor | None) -> None:
        """Take over the residuals of an evaluation, which may be those of some points."""
        self._x, self._place = x, place
        for point, tensor in maps.items():
            last = self._residuals.get(point)
            self._residuals[point] = _Residual(tensor, place, None if last is None else replace(last, before=None))

    @property
    def bytes(self) -> int:
        """Return how many bytes are held between steps."""
        latents = 0 if self._x is None else self._x.numel() * self._x.element_size()
        return sum(residual.bytes for residual in self._residuals.values()) + latents

    def at(self, place: float, points: Collection[Point]) -> Iterator[tuple[Point, Tensor]]:
        """Yield the residuals of some points at a place on the noise schedule."""
        for point, residual in self._residuals.items():
            if point in points:
                yield point, residual.at(place)


class Residuals:
    """The memory of one run; it ends with the run."""

    def __init__(self) -> None:
        self._lines: dict[Hashable, list[Line]] = {}
        self._step = 0
        self._place = 0.0  # of the step's first evaluation; read only while something is kept
        self.exact: dict[int, str] = {}  # number of a unit -> why it reuses nothing

    def clear(self) -> None:
        """Forget all residuals."""
        self._lines.clear()

    def begin(self, step: Step) -> None:
        """Begin an evaluation: drop what the last step did not use, and everything where the run went back.

        It goes back to an earlier step in another run or pass, and to more noise where a sampler restarts.
        """
        if not self._lines:
            self._step = _index(step) or 0
            return
        now = _index(step)
        if now != self._step and (now is None or now < self._step or _place(step) < self._place - SLACK):
            self.clear()
        elif now != self._step:
            found = {key: [line for line in lines if line.step >= self._step] for key, lines in self._lines.items()}
            self._lines = {key: lines for key, lines in found.items() if lines}
        if now != self._step:
            self._place = _place(step)
        self._step = now or 0

    def line(self, number: int, unit: ControlUnit, rows: tuple[int, ...], step: Step) -> Line | None:
        """Return where the residuals of these rows are kept; None for a unit that computes every step.

        number: of the unit in its stack.
        """
        if not unit.reuse or number in self.exact:
            return None
        if _index(step) is None:
            self.exact[number] = NO_STEP
            return None
        pictures = None if step.pictures is None else tuple(step.pictures[row] for row in rows)
        key = (number, rows, step.cond, pictures, step.window, tuple(step.x.shape), step.x.dtype, step.x.device)
        if not self._lines:
            self._place = _place(step)
        lines = self._lines.setdefault(key, [])
        found = next((line for line in lines if line.is_of(step.token)), None)
        if found is None:
            found = Line(step.token)
            lines.append(found)
        found.step = self._step
        return found

    def computed(
        self, line: Line, unit: ControlUnit, rows: tuple[int, ...], step: Step, points: Collection[Point]
    ) -> Collection[Point]:
        """Return which of the points where a unit acts it computes at this evaluation; at a pass's first step all."""
        extent = self._extent(line, unit, rows, step)
        if extent is Extent.NOTHING:
            return ()
        shallow = unit.model.shallow if extent is Extent.SHALLOW else ()
        return [point for point in points if point in shallow] if shallow else points

    def _extent(self, line: Line, unit: ControlUnit, rows: tuple[int, ...], step: Step) -> Extent:
        index, count = _index(step), step.steps
        if not index or count is None or line.empty:
            return Extent.WHOLE
        if unit.reuse.change is None:
            return unit.reuse.extent(index, count)
        changed = line.changed(take_rows(step.x, rows), _place(step)) >= unit.reuse.change
        return Extent.WHOLE if changed else Extent.NOTHING

    def keep(self, line: Line, unit: ControlUnit, rows: tuple[int, ...], step: Step, maps: Maps) -> None:
        """Keep what a unit has computed at this evaluation."""
        compared = unit.reuse.change is not None
        line.put(maps, _place(step), take_rows(step.x, rows).clone() if compared else None)

    def reused(self, line: Line, step: Step, points: Collection[Point]) -> Iterator[tuple[Point, Tensor]]:
        """Yield what a unit adds at points that it does not compute at this evaluation."""
        return line.at(_place(step), points)

    @property
    def bytes(self) -> int:
        """Return how many bytes are held between steps."""
        return sum(line.bytes for lines in self._lines.values() for line in lines)


def is_residual(point: Point, effect: Effect) -> bool:
    """Return whether an effect can be added at another step: a tensor in the network, and no function."""
    return isinstance(effect, Tensor) and point.block not in CONDITIONS


def _index(step: Step) -> int | None:
    """Return the number of the step in its pass, from 0; None where nobody knows."""
    return None if step.steps is None else round(step.progress[RangeBasis.STEPS] * step.steps)


def _place(step: Step) -> float:
    return step.progress[RangeBasis.NOISE]
