"""Comparisons: the same seed uncontrolled, under each unit alone and under all, and grids over any two fields."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...core.errors import HostError
from ...pipelines.request import Request
from ...pipelines.sheets import sheet
from ...units.hint import visible
from ...units.record import PICTURES
from ...units.request import FIELDS
from .library import Library
from .running import Drawn, variants
from .said import RANGE, Job, make_job

Image = NDArray[np.uint8]

NOTHING = ""  # the axis that has no field
MOST_CELLS = 100
SHEET_SIDE = 256  # pixels of a picture's height
NO_AXIS = ("image", "mask", "loras", *PICTURES, "parameters", "enabled")  # fields whose values nobody lists in a line


@dataclass(frozen=True, slots=True)
class Cell:
    """One picture of a sheet."""

    label: str
    job: Job


def compared(job: Job) -> list[list[Cell]]:
    """Return the cells of a comparison, in one row."""
    return [[Cell(label, each) for label, each in variants(job)]]


def axes(units: int) -> list[tuple[str, str]]:
    """Return (label, name) of every field that a grid can go over, for so many units."""
    own = [each.name for each in fields(Request) if each.name not in (*NO_AXIS, "batch")]
    found = [(name, name) for name in own]
    for number in range(1, units + 1):
        found += [(_label(name), name) for name in (f"{number}.{field}" for field in FIELDS if field not in NO_AXIS)]
    return [("nothing", NOTHING), *found]


def gridded(
    library: Library, said: Mapping[str, Any], units: Sequence[Mapping[str, Any]], given: Sequence[str]
) -> list[list[Cell]]:
    """Return the cells of a grid. given: field and values of both axes; values lie between semicolons.

    All cells have one seed, unless the seed is an axis. HostError for a grid that is too large, or has no values.
    """
    x, x_values, y, y_values = given
    columns, rows = _values(x, x_values), _values(y, y_values)
    if len(columns) * len(rows) > MOST_CELLS:
        raise HostError(f"the grid has {len(columns) * len(rows)} pictures, expected at most {MOST_CELLS}")
    seed = make_job(library, said, units).request.seed
    plain = {**said, "seed": seed, "batch": 1}
    return [[_cell(library, plain, units, ((x, column), (y, row))) for column in columns] for row in rows]


def sheet_of(rows: Sequence[Sequence[Cell]], drawn: Sequence[Drawn]) -> Image:
    """Return the sheet of cells that are drawn; a single row begins with the hints."""
    left = list(drawn)
    shown = [[(cell.label, left.pop(0).images[0]) for cell in row] for row in rows]
    if len(shown) == 1:
        last = drawn[-1]
        hints = [
            (f"hint {number}", visible(unit.hint)) for number, unit in zip(last.job.numbers, last.units, strict=True)
        ]
        shown = [[*hints, *shown[0]]]
    return sheet(shown, SHEET_SIDE)


def _label(name: str) -> str:
    """Return what an axis is called: `unit 1: weight` for 1.weight."""
    number, dot, field = name.partition(".")
    return f"unit {number}: {field}" if dot else name


def _values(name: str, text: str) -> list[str]:
    if name == NOTHING:
        return [""]
    found = [part.strip() for part in text.split(";") if part.strip()]
    if not found:
        raise HostError(f"the axis '{name}' has no values: write them with semicolons between, such as 0.5; 1; 1.5")
    return found


def _cell(
    library: Library, said: Mapping[str, Any], units: Sequence[Mapping[str, Any]], places: Sequence[tuple[str, str]]
) -> Cell:
    picture, changed = dict(said), [dict(each) for each in units]
    for name, value in places:
        number, dot, field = name.partition(".")
        if dot and int(number) > len(changed):
            raise HostError(f"the grid goes over a field of unit {number}, and there is none: choose another field")
        if dot:
            _set(changed[int(number) - 1], field, value)
        elif name != NOTHING:
            picture[name] = value
    job = make_job(library, picture, changed)
    label = ", ".join(f"{_label(name)} {value}" for name, value in places if name != NOTHING)
    return Cell(label, replace(job, request=replace(job.request, batch=1)))


def _set(unit: dict[str, Any], field: str, value: str) -> None:
    """Set a field of a unit; start and end lie in one widget."""
    if field not in ("start", "end") or RANGE not in unit:
        unit[field] = value
        return
    start, end = unit[RANGE]
    unit[RANGE] = [value, end] if field == "start" else [start, value]
