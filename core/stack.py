"""The units of one run, and the residuals of one step.

A unit that cannot act costs nothing: neither its network nor any tensor operation runs outside its range, at weight 0,
with an empty mask or with block weights that are all zero. What does not change between steps (the hint's features, the
prompt's keys and values, the masks at each block's size) is computed once and lives as long as the stack. Units on the
same network run as one batched call. Rows that show the same picture are one row for as long as nothing sets them
apart; that they do is looked at once per step, and only there does something wait for the device.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .base import LATENT
from .errors import HintError
from .host import Host, PlainHost
from .memory import Memory
from .residuals import Accumulator, Residuals
from .resize import ResizeMode, fit
from .rows import Twins, take_rows
from .schedule import RangeBasis
from .unit import ControlMode, ControlUnit, Prepared, Prompt, Slot, Step, Window

# Bytes that a run keeps of hints and masks, and of prompts, beyond what one evaluation uses: some fifty tiles of SDXL's
# features at 1024 px in fp16, and several regions' prompts.
HINTS_KEPT, PROMPTS_KEPT = 512 << 20, 128 << 20


@dataclass(frozen=True, slots=True)
class Firing:
    """On how many of a run's steps a unit acted."""

    fired: int
    steps: int

    def __str__(self) -> str:
        return f"{self.fired} of {self.steps}"


class _Active(NamedTuple):
    """A unit that acts at this step, with the factor and the rows of the moment."""

    unit: ControlUnit
    scales: dict[Slot, float]
    multiplier: float
    rows: tuple[int, ...]


class ControlStack:
    """The units of one run: call it once per evaluation of the base network."""

    def __init__(self, units: Sequence[ControlUnit], host: Host | None = None) -> None:
        self._units = tuple(units)
        self._host = PlainHost() if host is None else host
        self._scales = [{} if _is_masked_out(unit) else unit.scales() for unit in self._units]
        self._fired: list[set[float]] = [set() for _ in self._units]
        self._steps: set[float] = set()
        self._hints = Memory(HINTS_KEPT)
        self._prompts = Memory(PROMPTS_KEPT)

    @torch.no_grad()
    def __call__(self, step: Step, onto: Residuals | None = None) -> Residuals:
        """The sum of what the active units add, in unit order (units on one network take the place of the first).

        onto: what other controls of the host add already; the sum begins with it.
        """
        self._host.check_interrupt()
        self._hints.begin()
        self._prompts.begin()
        total = Accumulator(len(step.cond), onto)
        same = cache(lambda: _same_latents(step))
        for group in _by_network(self._active(step)):
            for active, slot, residual in self._evaluate(group, step, same):
                scale = active.scales.get(slot)
                if scale:
                    weighed = self._masked(residual, active.unit, active.rows, step)
                    total.add(slot, weighed.to(step.x.dtype), scale * active.multiplier, active.rows)
                    del weighed
                del residual  # free before the next one is computed
        return total.residuals()

    def firings(self) -> tuple[Firing, ...]:
        """For each unit, on how many of the steps seen so far it acted."""
        return tuple(Firing(len(fired), len(self._steps)) for fired in self._fired)

    def kept_bytes(self) -> int:
        """Memory that is held between steps."""
        return self._hints.bytes + self._prompts.bytes

    def close(self) -> None:
        """Release everything that was kept between steps."""
        self._hints.clear()
        self._prompts.clear()

    def _active(self, step: Step) -> Iterator[_Active]:
        at = step.progress[RangeBasis.STEPS]
        self._steps.add(at)
        for unit, scales, fired in zip(self._units, self._scales, self._fired, strict=True):
            multiplier = unit.schedule.multiplier(step.progress) if scales else 0.0
            rows = _rows(unit, step.cond) if multiplier else ()
            if rows:
                fired.add(at)
                yield _Active(unit, scales, multiplier, rows)

    def _evaluate(
        self, group: Sequence[_Active], step: Step, same: Callable[[], bool]
    ) -> Iterator[tuple[_Active, Slot, Tensor]]:
        """Run one network for all units of a group, as one batch, and hand out each unit's share of each residual.

        same: whether rows of one picture hold the same latents.
        """
        model = group[0].unit.model
        rows = group[0].rows * len(group)
        wanted = frozenset(slot for active in group for slot in active.scales)
        with self._host.ready(model):
            prepared, prompt = self._prepared(group, step), self._prompt(group[0].unit, step, rows)
            seen = replace(step.rows(rows), twins=lambda: self._twins(group, step) if same() else None)
            for slot, residual in model(seen, prepared, prompt, wanted):
                for active, share in zip(group, residual.chunk(len(group)), strict=True):
                    yield active, slot, share
                    del share
                del residual

    def _twins(self, group: Sequence[_Active], step: Step) -> Twins | None:
        """Which rows of the group's batch show the same picture and the same hint."""
        assert step.pictures is not None
        labels: list[Hashable] = []
        for active in group:
            hints = _pictures(len(active.unit.hint), active.rows, step.window)
            key = self._hint_key(active.unit, step)
            labels += [(key, hint, step.pictures[row]) for hint, row in zip(hints, active.rows, strict=True)]
        return Twins.of(labels)

    def _prepared(self, group: Sequence[_Active], step: Step) -> Prepared:
        """The hints' features, aligned with the rows of the group's batch: 1 row where one picture serves all."""
        if len(group) == 1:
            return self._aligned(group[0], step, broadcast=True)

        def beside() -> Prepared:
            parts = [self._aligned(active, step, broadcast=False) for active in group]
            return tuple(torch.cat(tensors) for tensors in zip(*parts, strict=True))

        key = ("group", tuple(self._hint_key(active.unit, step) for active in group), group[0].rows, step.window)
        return self._hints.keep(key, beside)

    def _aligned(self, active: _Active, step: Step, *, broadcast: bool) -> Prepared:
        unit, window = active.unit, step.window
        count = len(unit.hint)
        if count == 1 and broadcast:
            return self._features(unit, step)
        by_frame = window is not None and window.frames is not None
        if not by_frame and len(step.cond) % count:
            raise HintError(
                f"'{unit.model.name}' has {count} hints for {len(step.cond)} rows: give one hint, or one per picture"
            )
        rows = _pictures(count, active.rows, window)
        key = ("rows", self._hint_key(unit, step), rows)
        return self._hints.keep(key, lambda: tuple(take_rows(each, rows) for each in self._features(unit, step)))

    def _features(self, unit: ControlUnit, step: Step) -> Prepared:
        """`model.prepare`, once per hint, size, part of the picture and dtype."""
        return self._hints.keep(self._hint_key(unit, step), lambda: unit.model.prepare(self._hint(unit, step)))

    def _hint_key(self, unit: ControlUnit, step: Step) -> Hashable:
        size = (step.x.shape[-2], step.x.shape[-1])
        area = _area(step.window, size)
        return ("hint", id(unit.model), id(unit.hint), unit.resize, area, size, step.x.dtype, step.x.device)

    def _hint(self, unit: ControlUnit, step: Step) -> Tensor:
        """The part of the unit's hint that the rows show, at the model's scale."""
        scale = unit.model.hint_scale
        if scale is None:
            return unit.hint.to(step.x.device)
        return self._shown(unit.hint, unit.resize, step, scale)

    def _shown(self, picture: Tensor, mode: ResizeMode, step: Step, scale: int) -> Tensor:
        """A hint or mask, fitted to the whole picture and cut to the part that the rows show."""
        size = (step.x.shape[-2], step.x.shape[-1])
        canvas, top, left = _area(step.window, size)

        def fitted() -> tuple[Tensor]:
            return (fit(picture.to(step.x.device, torch.float32), (canvas[0] * scale, canvas[1] * scale), mode),)

        if canvas == size:
            return fitted()[0]
        whole = self._hints.keep(("whole", id(picture), mode, canvas, scale, step.x.device), fitted)[0]
        return whole[..., top * scale : (top + size[0]) * scale, left * scale : (left + size[1]) * scale]

    def _prompt(self, unit: ControlUnit, step: Step, rows: tuple[int, ...]) -> Prompt:
        """`model.encode`, once per prompt. The key is an object that is held here, so its id cannot come again."""
        token = step.context if step.prompt is None else step.prompt
        version = token._version if isinstance(token, Tensor) and not token.is_inference() else 0
        key = (id(unit.model), id(token), version, rows)
        return self._prompts.keep(key, lambda: unit.model.encode(take_rows(step.context, rows)), of=token)

    def _masked(self, residual: Tensor, unit: ControlUnit, rows: tuple[int, ...], step: Step) -> Tensor:
        if unit.mask is None or residual.ndim != 4:
            return residual
        return residual * self._mask(unit, unit.mask, rows, step, residual)

    def _mask(self, unit: ControlUnit, mask: Tensor, rows: tuple[int, ...], step: Step, residual: Tensor) -> Tensor:
        """The mask at a block's size: [1 or len(rows), 1, h, w]; bilinear, as in sd-webui-controlnet."""
        size = (residual.shape[-2], residual.shape[-1])
        area = _area(step.window, (step.x.shape[-2], step.x.shape[-1]))
        frames = None if step.window is None else step.window.frames

        def scaled() -> tuple[Tensor]:
            shown = self._shown(mask, unit.resize, step, LATENT)
            small = F.interpolate(shown, size, mode="bilinear").to(residual.dtype)
            return (small if len(mask) == 1 else take_rows(small, _pictures(len(mask), rows, step.window)),)

        key = ("mask", id(mask), unit.resize, area, frames, size, rows, residual.dtype, residual.device)
        return self._hints.keep(key, scaled)[0]


def _same_latents(step: Step) -> bool:
    """Whether rows that should show the same picture do: other extensions may have changed some of them."""
    twins = None if step.pictures is None else Twins.of(step.pictures)
    return twins is not None and twins.hold_for(step.x, step.timestep)


def _is_masked_out(unit: ControlUnit) -> bool:
    return unit.mask is not None and not bool(unit.mask.any())


def _rows(unit: ControlUnit, cond: tuple[bool, ...]) -> tuple[int, ...]:
    everywhere = unit.mode is not ControlMode.CONTROL and not unit.model.cond_only
    return tuple(row for row, positive in enumerate(cond) if everywhere or positive)


def _by_network(actives: Iterator[_Active]) -> list[list[_Active]]:
    """Units that the same network can serve in one call: the same model on the same rows."""
    groups: dict[Hashable, list[_Active]] = {}
    for active in actives:
        groups.setdefault((id(active.unit.model), active.rows), []).append(active)
    return list(groups.values())


def _pictures(count: int, rows: tuple[int, ...], window: Window | None) -> tuple[int, ...]:
    """Which of `count` hints or masks each row shows."""
    if window is None or window.frames is None or count == 1:
        return tuple(row % count for row in rows)
    return tuple(window.frames[row % len(window.frames)] for row in rows)


def _area(window: Window | None, size: tuple[int, int]) -> tuple[tuple[int, int], int, int]:
    """(canvas, top, left) in latent pixels."""
    return (size, 0, 0) if window is None else (window.canvas, window.top, window.left)
