"""The values of an evaluation: means over the pictures with their intervals, and values of the whole set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ....core.wording import counted
from ..measures.measure import Better, Measure

NORMAL = 1.96  # half the width of a 95 % interval of a mean, in standard errors
SET = "of the whole set"


@dataclass(frozen=True, slots=True)
class Value:
    """A mean over `count` pictures with half of its 95 % interval, or, with `half` None, a value of the whole set."""

    mean: float
    half: float | None
    count: int
    better: Better

    def __str__(self) -> str:
        return f"{self.mean:.4g}" if self.half is None else f"{self.mean:.4g} ± {self.half:.2g}"


def values_of(rows: Sequence[Mapping[str, Any]], measures: Sequence[Measure]) -> dict[str, Value]:
    """Return the values by name. rows: of each picture, with its `values`."""
    found: dict[str, Value] = {}
    for measure in measures:
        of_set = measure.result()
        for name, better in measure.better.items():
            each = [row["values"][name] for row in rows if name in row["values"]]
            if name in of_set:
                found[name] = Value(float(of_set[name]), None, len(rows), better)
            elif each:
                found[name] = Value(float(np.mean(each)), half_width(each), len(each), better)
    return found


def half_width(values: Sequence[float]) -> float | None:
    """Return half of the 95 % interval of a mean, by the normal approximation; None for a single value."""
    if len(values) < 2:
        return None
    return NORMAL * float(np.std(values, ddof=1)) / len(values) ** 0.5


def table(values: Mapping[str, Value]) -> str:
    """Return the values as lines of a table for the terminal."""
    rows = [
        (name.replace("_", " "), str(value), counted(value.count, "picture"), value.better.value)
        for name, value in values.items()
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)] if rows else []
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def as_json(
    values: Mapping[str, Value], rows: Sequence[Mapping[str, Any]], record: Mapping[str, str]
) -> dict[str, Any]:
    """Return everything as plain tables."""
    return {
        "settings": dict(record),
        "values": {
            name: {"value": each.mean, "interval": each.half, "pictures": each.count, "better": each.better.value}
            for name, each in values.items()
        },
        "pictures": [{"name": row["name"], **row["values"]} for row in rows],
    }
