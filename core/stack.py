"""The units of one run, and the residuals of one step.

A unit that cannot act costs nothing: neither its network nor any tensor operation runs outside its range, at weight 0,
with an empty mask or with block weights that are all zero. What does not change between steps (the hint's features, the
prompt's keys and values, the masks at each block's size) is computed once and lives as long as the stack. Units on the
same network run as one batched call. Nothing here waits for the device.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import HintError
from .host import Host, PlainHost
from .residuals import Accumulator, Residuals
from .resize import ResizeMode, fit
from .schedule import RangeBasis
from .unit import ControlMode, ControlUnit, Prepared, Prompt, Slot, Step, Window, take_rows

PROMPTS_KEPT = 8  # per model: positive and negative prompts of a few regions; a host that makes new ones evicts the old

MASK_SCALE = 8  # mask pixels per latent pixel: a mask is drawn on the picture


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
        self._cache: dict[Hashable, Prepared] = {}
        self._prompts: OrderedDict[Hashable, tuple[object, Prompt]] = OrderedDict()

    @torch.no_grad()
    def __call__(self, step: Step, onto: Residuals | None = None) -> Residuals:
        """The sum of what the active units add, in unit order (units on one network take the place of the first).

        onto: what other controls of the host add already; the sum begins with it.
        """
        self._host.check_interrupt()
        total = Accumulator(len(step.cond), onto)
        for group in _by_network(self._active(step)):
            for active, slot, residual in self._evaluate(group, step):
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

    def close(self) -> None:
        """Release everything that was kept between steps."""
        self._cache.clear()
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

    def _evaluate(self, group: Sequence[_Active], step: Step) -> Iterator[tuple[_Active, Slot, Tensor]]:
        """Run one network for all units of a group, as one batch, and hand out each unit's share of each residual."""
        model = group[0].unit.model
        rows = group[0].rows * len(group)
        wanted = frozenset(slot for active in group for slot in active.scales)
        with self._host.ready(model):
            prepared, prompt = self._prepared(group, step), self._prompt(group[0].unit, step, rows)
            for slot, residual in model(step.rows(rows), prepared, prompt, wanted):
                for active, share in zip(group, residual.chunk(len(group)), strict=True):
                    yield active, slot, share
                    del share
                del residual

    def _prepared(self, group: Sequence[_Active], step: Step) -> Prepared:
        """The hints' features, aligned with the rows of the group's batch: 1 row where one picture serves all."""
        parts = [self._aligned(active, step, broadcast=len(group) == 1) for active in group]
        if len(parts) == 1:
            return parts[0]
        key = ("group", *((id(part[0]), id(active.unit)) for part, active in zip(parts, group, strict=True)))
        if key not in self._cache:
            self._cache[key] = tuple(torch.cat(tensors) for tensors in zip(*parts, strict=True))
        return self._cache[key]

    def _aligned(self, active: _Active, step: Step, *, broadcast: bool) -> Prepared:
        unit, window = active.unit, step.window
        features = self._features(unit, step)
        count = len(unit.hint)
        if count == 1 and broadcast:
            return features
        by_frame = window is not None and window.frames is not None
        if not by_frame and len(step.cond) % count:
            raise HintError(
                f"'{unit.model.name}' has {count} hints for {len(step.cond)} rows: give one hint, or one per picture"
            )
        rows = _pictures(count, active.rows, window)
        key = ("rows", id(features[0]), rows)
        if key not in self._cache:
            self._cache[key] = tuple(take_rows(feature, rows) for feature in features)
        return self._cache[key]

    def _features(self, unit: ControlUnit, step: Step) -> Prepared:
        """`model.prepare`, once per hint, size, part of the picture and dtype."""
        size = (step.x.shape[-2], step.x.shape[-1])
        window = _area(step.window, size)
        key = ("hint", id(unit.model), id(unit.hint), unit.resize, window, size, step.x.dtype, step.x.device)
        if key not in self._cache:
            hint = unit.hint.to(step.x.device)
            scale = unit.model.hint_scale
            if scale is not None:
                hint = _crop(hint, unit.resize, window, size, scale)
            self._cache[key] = unit.model.prepare(hint)
        return self._cache[key]

    def _prompt(self, unit: ControlUnit, step: Step, rows: tuple[int, ...]) -> Prompt:
        """`model.encode`, once per prompt. The key is an object that is held here, so its id cannot come again."""
        token = step.context if step.prompt is None else step.prompt
        version = token._version if isinstance(token, Tensor) and not token.is_inference() else 0
        key = (id(unit.model), id(token), version, rows)
        if key not in self._prompts:
            self._prompts[key] = (token, unit.model.encode(take_rows(step.context, rows)))
            while len(self._prompts) > PROMPTS_KEPT * len(self._units):
                self._prompts.popitem(last=False)
        self._prompts.move_to_end(key)
        return self._prompts[key][1]

    def _masked(self, residual: Tensor, unit: ControlUnit, rows: tuple[int, ...], step: Step) -> Tensor:
        if unit.mask is None or residual.ndim != 4:
            return residual
        return residual * self._mask(unit, unit.mask, rows, step, residual)

    def _mask(self, unit: ControlUnit, mask: Tensor, rows: tuple[int, ...], step: Step, residual: Tensor) -> Tensor:
        """The mask at a block's size: [1 or len(rows), 1, h, w]; bilinear, as in sd-webui-controlnet."""
        size = (residual.shape[-2], residual.shape[-1])
        latent = (step.x.shape[-2], step.x.shape[-1])
        window = _area(step.window, latent)
        frames = None if step.window is None else step.window.frames
        key = ("mask", id(mask), unit.resize, window, frames, size, rows, residual.dtype, residual.device)
        if key not in self._cache:
            whole = _crop(mask.to(residual.device, torch.float32), unit.resize, window, latent, MASK_SCALE)
            scaled = F.interpolate(whole, size, mode="bilinear").to(residual.dtype)
            shown = scaled if len(mask) == 1 else take_rows(scaled, _pictures(len(mask), rows, step.window))
            self._cache[key] = (shown,)
        return self._cache[key][0]


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


def _crop(
    picture: Tensor, mode: ResizeMode, area: tuple[tuple[int, int], int, int], size: tuple[int, int], scale: int
) -> Tensor:
    """Fit a hint or mask to the whole canvas, then cut out the part that the rows show."""
    canvas, top, left = area
    whole = fit(picture, (canvas[0] * scale, canvas[1] * scale), mode)
    if canvas == size:
        return whole
    return whole[..., top * scale : (top + size[0]) * scale, left * scale : (left + size[1]) * scale]
