"""Which of a unit's hints and masks each picture of a request gets, however many pictures are drawn together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from ..core.errors import HintError, HostError
from ..core.unit import ControlUnit
from ..core.wording import counted
from ..preprocessors import MAX_PIXELS
from ..units.record import PICTURES
from ..units.request import UnitRequest
from .request import Request


def check_shares(units: Sequence[ControlUnit], pictures: int) -> None:
    """Raise HintError for a unit with several hints or masks that so many pictures cannot share evenly."""
    for number, unit in enumerate(units, start=1):
        counts = {"hints": 1 if unit.model.joins_hints else len(unit.hint)}
        counts["masks"] = 1 if unit.mask is None else len(unit.mask)
        for what, count in counts.items():
            if pictures % count:
                raise HintError(
                    f"unit {number} ({unit.model.name}) has {count} {what} for "
                    f"{counted(pictures, 'picture')}: give it one, or draw {count} pictures, one for each"
                )


def check_together(request: Request) -> None:
    """Raise HostError for more pixels at once than any machine holds."""
    width, height = request.final_size
    if width * height * request.batch > MAX_PIXELS:
        raise HostError(
            f"{request.batch} pictures of {width}x{height} at once have more than {MAX_PIXELS // 10**6} megapixels: "
            "draw fewer of them together"
        )


def parts(
    request: Request, units: Sequence[ControlUnit], at_once: int
) -> Iterator[tuple[Request, Sequence[ControlUnit]]]:
    """Yield requests of at most so many pictures, and their units, that together draw the same."""
    for first in range(0, request.batch, at_once):
        prompts = request.prompts[first : first + at_once]
        part = replace(request, prompt=prompts, batch=len(prompts), seed=request.seed + first)
        yield part, [_share(unit, first, len(prompts), request.batch) for unit in units]


def _share(unit: ControlUnit, first: int, count: int, pictures: int) -> ControlUnit:
    """Return the unit with the hints and masks of `count` of the pictures alone; itself where nothing is left out."""
    if count == pictures:
        return unit
    hint = unit.hint if unit.model.joins_hints else _rows(unit.hint, first, count)
    mask = None if unit.mask is None else _rows(unit.mask, first, count)
    if hint is unit.hint and mask is unit.mask:
        return unit
    return replace(unit, hint=hint, mask=mask, origin=_said(unit, first, count))


def _said(unit: ControlUnit, first: int, count: int) -> object:
    """Return the request of a unit with the pictures that belong to its share, for records."""
    said = unit.origin
    if not isinstance(said, UnitRequest):
        return said
    names = ["effect_mask"] if unit.model.joins_hints else list(PICTURES)
    return replace(said, **{name: _picked(name, getattr(said, name), unit, first, count) for name in names})


def _picked(name: str, value: Any, unit: ControlUnit, first: int, count: int) -> Any:
    """Return the files or pixels of a share, where there is one for each of the unit's hints or masks."""
    several = isinstance(value, tuple) or getattr(value, "ndim", 0) > PICTURES[name]
    if not several or len(value) not in (len(unit.hint), 1 if unit.mask is None else len(unit.mask)):
        return value
    if not isinstance(value, tuple):
        return value[_turn(range(len(value)), first, count)]
    picked = _turn(value, first, count)
    return picked[0] if count == 1 else tuple(picked)


def _rows(each: Tensor, first: int, count: int) -> Tensor:
    """Return [N, ...] for the pictures from `first` on: one stands for all, several are taken in turn."""
    return each if len(each) == 1 else each[_turn(range(len(each)), first, count)]


def _turn(several: Sequence[Any], first: int, count: int) -> list[Any]:
    return [several[k % len(several)] for k in range(first, first + count)]
