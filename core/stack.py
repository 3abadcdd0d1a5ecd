"""The units of one run, and the residuals of one step.

A unit that cannot act costs nothing: neither its network nor any tensor operation runs outside its range, at weight 0,
with an empty mask or with block weights that are all zero. What does not change between steps (the hint's features, the
prompt's keys and values, the masks at each block's size) is computed once and lives as long as the stack. Units on the
same network run as one batched call, and so may light networks of one shape (`groups.py`). Rows that show the same
picture are one row for as long as nothing sets them apart; that they do is looked at once per step, and only there does
something wait for the device. Units may add again what they computed at earlier steps (`reuse/`); of those the network
does not run either. What units put beside the prompt and in place of the pooled prompt is known first: the networks of
the others read the conditions as the base network will.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from .control import ControlModel, Prompt
from .errors import UnitError
from .firing import Firing
from .groups import Active, Group, Groups
from .host import Host, PlainHost
from .memory.conditions import Conditions
from .memory.kept import Kept, hint_key, hints_of, pictures_of
from .network.effects import Accumulator, Effects, Shift, Watch, add_rows
from .network.points import CONDITIONS, PROMPT, VECTOR, Point
from .network.rows import Twins, take_rows
from .reuse.residuals import NO_RESIDUALS, Maps, Residuals, is_residual
from .schedule import RangeBasis
from .step import Step
from .unit import ControlMode, ControlUnit


class _Share(NamedTuple):
    """What one unit does at one point: its factor, and its part of the group's batch."""

    active: Active
    scale: float
    part: int


class _Keeping(NamedTuple):
    """What is kept of a unit that computes now, point by point, and which part of the group's batch is its own."""

    active: Active
    part: int
    maps: Maps


class ControlStack:
    """The units of one run: call it once per evaluation of the base network."""

    def __init__(self, units: Sequence[ControlUnit], host: Host | None = None, *, beside: bool = False) -> None:
        """beside: different networks of one shape may be computed in one call.

        For hosts that leave networks where they are and as they are: what they compute with is one set of weights then.
        """
        self.units = tuple(units)
        self._groups = Groups(self.units, beside=beside)
        self._host = PlainHost() if host is None else host
        self._acts = [unit.acts for unit in self.units]  # asked once: a mask may lie on a device
        self._scales = [unit.scales() for unit in self.units]
        self._fired: list[set[float]] = [set() for _ in self.units]
        self._ran: list[set[float]] = [set() for _ in self.units]
        self._reused: list[set[float]] = [set() for _ in self.units]
        self._steps: set[float] = set()
        self._kept = Kept(self._host)
        self._giver = _giver(self.units)
        self._residuals = Residuals()
        self._conditions = Conditions()

    @torch.no_grad()
    def __call__(self, step: Step, onto: Effects | None = None) -> Effects:
        """Return the sum of what the active units do, in unit order (units on one network at the first one's place).

        onto: what other controls of the host do already; the sum begins with it.
        """
        self._host.check_interrupt()
        self._kept.begin()
        self._residuals.begin(step)
        total = Accumulator(len(step.cond), onto)
        same = cache(lambda: _same_latents(step))
        groups = self._groups.of(self._active(step))
        for group in (each for each in groups if _conditions_only(each.model)):
            self._add(group, step, same, total)
        step = self._conditions.changed(step, total.vector)
        for group in (each for each in groups if not _conditions_only(each.model)):
            if group.actives[0].computes:
                self._add(group, step, same, total)
            else:
                self._add_again(group.actives[0], step, total)
        return total.effects()

    def firings(self) -> tuple[Firing, ...]:
        """Return for each unit on how many of the steps seen so far it acted."""
        both = list(zip(self._reused, self._ran, strict=True))
        return tuple(
            Firing(
                fired=len(fired),
                steps=len(self._steps),
                reused=len(both[number][0] - both[number][1]),
                in_part=len(both[number][0] & both[number][1]),
                exact=self._residuals.exact.get(number, ""),
            )
            for number, fired in enumerate(self._fired)
        )

    def close(self) -> None:
        """Release everything that was kept between steps."""
        self._kept.clear()
        self._residuals.clear()
        self._conditions.clear()

    def _active(self, step: Step) -> Iterator[Active]:
        at = step.progress[RangeBasis.STEPS]
        self._steps.add(at)
        for number, unit in enumerate(self.units):
            acts, scales, fired = self._acts[number], self._scales[number], self._fired[number]
            if unit.model.delta is not None and acts:
                fired.add(at)  # the weights are changed for the whole run
            multiplier = unit.schedule.multiplier(step.progress) if scales else 0.0
            rows = _rows(unit, step.cond) if multiplier else ()
            if multiplier and not rows and PROMPT in scales:  # as beside rows that take part: zeros are tokens too
                yield Active(unit, {PROMPT: scales[PROMPT]}, 0.0, tuple(range(len(step.cond))), number)
            if rows:
                fired.add(at)
                line = self._residuals.line(number, unit, rows, step)
                points = scales if line is None else self._residuals.computed(line, unit, rows, step, scales)
                fresh = {point: scale for point, scale in scales.items() if point in points}
                again = {point: scale for point, scale in scales.items() if point not in points}
                if fresh:
                    self._ran[number].add(at)
                    yield Active(unit, fresh, multiplier, rows, number, line)
                if again:
                    self._reused[number].add(at)
                    yield Active(unit, again, multiplier, rows, number, line, computes=False)

    def _add(self, group: Group, step: Step, same: Callable[[], bool], total: Accumulator) -> None:
        """Run one model for all units of a group, as one batch, and add each unit's share of each effect.

        same: whether rows of one picture hold the same latents.
        """
        model, actives, rows = group.model, group.actives, group.batch
        wanted = frozenset(point for active in actives for point in active.scales)
        if model.follows and self._host.follow(model):
            self._kept.clear()  # what was computed with other weights
            self._residuals.clear()
        told = self._told(model, step, rows)
        kept = [_Keeping(active, part, {}) for part, active in enumerate(actives) if active.line is not None]
        with self._host.ready(model):
            prepared = self._kept.prepared([active.unit for active in actives], group.rows, step)
            prompt = self._kept.prompt(model, step, rows, told)
            if model.reads_added and total.tokens is not None:
                prompt = _beside(prompt, model.encode(_rows_of(total.tokens, rows)))
            seen = replace(step.rows(rows), twins=lambda: _twins(actives, step) if same() else None)
            for point, effect in model(seen, prepared, prompt, wanted):
                if kept and not is_residual(point, effect):
                    self._reuse_nothing(kept)
                if isinstance(effect, Watch):
                    total.shift(point, self._watched(effect, model, rows))
                    continue
                shares = [
                    _Share(active, scale * active.multiplier, index)
                    for index, active in enumerate(actives)
                    if (scale := active.scales.get(point))
                ]
                if isinstance(effect, Shift):
                    total.shift(point, self._shifted(effect, shares, len(actives), step))
                else:
                    self._add_tensor(point, effect, shares, len(actives), step, total)
                    _keep(point, effect, kept, len(actives))
                del effect  # free before the next one is computed
        for active, _, maps in kept:
            assert active.line is not None
            self._residuals.keep(active.line, active.unit, active.rows, step, maps)

    def _add_again(self, active: Active, step: Step, total: Accumulator) -> None:
        """Add what a unit computed at earlier steps."""
        assert active.line is not None
        for point, tensor in self._residuals.reused(active.line, step, active.scales):
            share = _Share(active, active.scales[point] * active.multiplier, 0)
            self._add_tensor(point, tensor, [share], 1, step, total)

    def _reuse_nothing(self, kept: list[_Keeping]) -> None:
        """Let units compute every step from now on: not all that their model does can be done again."""
        self._residuals.exact.update((each.active.number, NO_RESIDUALS) for each in kept)
        kept.clear()

    def _told(self, model: ControlModel, step: Step, rows: tuple[int, ...]) -> Tensor | None:
        """Return what a model reads in place of the prompt; None: the prompt."""
        if self._giver is None or not model.reads_tokens:
            return None
        return self._kept.tokens(self._giver, step, rows)

    def _add_tensor(
        self, point: Point, tensor: Tensor, shares: Sequence[_Share], count: int, step: Step, total: Accumulator
    ) -> None:
        parts = tensor.chunk(count)
        for active, scale, part in shares:
            weighed = self._by_prompt(self._masked(parts[part], active, step), active, step).to(step.x.dtype)
            if point == VECTOR:
                total.replace(weighed, scale, active.rows, silent=active.unit.model.silences_prompt)
            else:
                total.add(point, weighed, scale, active.rows)
            del weighed

    def _shifted(self, shift: Shift, shares: Sequence[_Share], count: int, step: Step) -> Callable[[Tensor], Tensor]:
        """Return the change of all rows at a point, of which a group's rows are given to the shift as one batch."""
        model, rows = shares[0].active.unit.model, shares[0].active.rows

        @torch.no_grad()
        def change(h: Tensor) -> Tensor:
            result = torch.zeros_like(h)
            with self._host.ready(model):
                parts = shift.function(take_rows(h, rows * count)).chunk(count)
            for active, scale, part in shares:
                weighed = self._by_prompt(self._masked(parts[part], active, step), active, step).to(h.dtype)
                add_rows(result, weighed * scale, active.rows)
            return result

        return change

    def _watched(self, watch: Watch, model: ControlModel, rows: tuple[int, ...]) -> Callable[[Tensor], Tensor]:
        """Return a change that shows these rows of what stands at a point, and adds nothing."""

        @torch.no_grad()
        def look(h: Tensor) -> Tensor:
            with self._host.ready(model):  # some compute with their network what they see
                watch.function(take_rows(h, rows))
            return h.new_zeros(()).expand_as(h)  # of which no copy for each pixel is made

        return look

    def _by_prompt(self, tensor: Tensor, active: Active, step: Step) -> Tensor:
        """Weigh the rows of the negative prompt by the unit's factor for them."""
        factor = active.unit.uncond_weight
        if factor == 1 or all(step.cond[row] for row in active.rows):
            return tensor
        return tensor * self._kept.factors(tuple(1.0 if step.cond[row] else factor for row in active.rows), tensor)

    def _masked(self, tensor: Tensor, active: Active, step: Step) -> Tensor:
        """Weigh what a unit adds by its mask."""
        if active.unit.mask is None:
            return tensor
        return tensor * self._kept.mask(active.unit, active.rows, step, tensor)


def _giver(units: Sequence[ControlUnit]) -> ControlUnit | None:
    """Return the first unit that gives tokens, where others read them; UnitError where one is needed and missing."""
    giver = next((unit for unit in units if unit.model.gives_tokens), None)
    reader = next((unit for unit in units if unit.model.reads_tokens and unit.acts), None)
    if reader is None or giver is None:
        if reader is not None:
            raise UnitError(
                f"'{reader.model.name}' reads the tokens of a face in place of the prompt, and no unit gives some: add "
                "a unit with the adapter of InstantID and a picture of the face, or set the option 'context' to prompt"
            )
        return None
    width, wanted = giver.model.base.context, reader.model.base.context
    if width != wanted:
        raise UnitError(
            f"'{reader.model.name}' reads tokens {wanted} wide in place of the prompt, and '{giver.model.name}' gives "
            f"some {width} wide: choose two models of InstantID"
        )
    return giver


def _keep(point: Point, tensor: Tensor, kept: Sequence[_Keeping], count: int) -> None:
    """Keep the parts of a group's residual that belong to units which reuse it. count: of units in the group."""
    for active, part, maps in kept:
        if point in active.scales:
            own = tensor.chunk(count)[part]
            maps[point] = own if count == 1 else own.clone()  # which does not hold the rows of the others


def _twins(actives: Sequence[Active], step: Step) -> Twins | None:
    """Return which rows of a group's batch show the same picture and the same hint; as many of each network."""
    assert step.pictures is not None
    labels: list[Hashable] = []
    kinds: dict[Hashable, set[Hashable]] = {}  # of rows, by network
    for active in actives:
        hints = pictures_of(hints_of(active.unit), active.rows, step.window)
        key = hint_key(active.unit, step)
        own = [(key, hint, step.pictures[row]) for hint, row in zip(hints, active.rows, strict=True)]
        labels += own
        kinds.setdefault(active.unit.model.sameness, set()).update(own)
    return Twins.of(labels) if len({len(each) for each in kinds.values()}) == 1 else None


def _same_latents(step: Step) -> bool:
    """Return whether rows that should show the same picture do: other extensions may have changed some of them."""
    twins = None if step.pictures is None else Twins.of(step.pictures)
    return twins is not None and twins.hold_for(step.x, step.timestep)


def _conditions_only(model: ControlModel) -> bool:
    """Return whether a model changes what the base network is given, and nothing that it computes."""
    return all(point.block in CONDITIONS for point in model.points)


def _beside(prompt: Prompt, added: Prompt) -> Prompt:
    """Return a prompt [B, T, ...] and further tokens [B, T', ...], each encoded by itself, as one."""
    return tuple(torch.cat(pair, dim=1) for pair in zip(prompt, added, strict=True))


def _rows_of(tokens: Tensor, rows: tuple[int, ...]) -> Tensor:
    """Return these rows of tokens [1 or B, T, D]."""
    return tokens.expand(len(rows), -1, -1) if len(tokens) == 1 else take_rows(tokens, rows)


def _rows(unit: ControlUnit, cond: tuple[bool, ...]) -> tuple[int, ...]:
    everywhere = unit.mode is not ControlMode.CONTROL and not unit.model.cond_only and bool(unit.uncond_weight)
    return tuple(row for row, positive in enumerate(cond) if everywhere or positive)
