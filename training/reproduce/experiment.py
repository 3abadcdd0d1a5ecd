"""What an experiment is: what the papers say, what is tried, and how its numbers are told."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .world import World

Image = NDArray[np.uint8]
Say = Callable[[str], None]
MARGIN = 0.1  # by which a measure between 0 and 1 must differ before anything is said of it


@dataclass(frozen=True, slots=True)
class Found:
    """Numbers, as JSON holds them, and pictures [H, W, 3] by name."""

    measured: dict[str, Any]
    pictures: Mapping[str, Image] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Verdict:
    """A sentence of the papers, whether it holds here, and the numbers that say so."""

    claim: str
    holds: bool
    seen: str


@dataclass(frozen=True, slots=True)
class Told:
    """What is written of an experiment: a table in Markdown, and verdicts."""

    table: str
    verdicts: Sequence[Verdict]


@dataclass(frozen=True, slots=True)
class Experiment:
    """One experiment. `run` takes minutes to hours; `tell` makes words of what it measured."""

    name: str
    title: str
    says: str  # what the papers say, with the place
    tried: str  # what is done here
    run: Callable[[World, Say], Found]
    tell: Callable[[Mapping[str, Any]], Told]


def table(first: str, rows: Mapping[str, Mapping[str, float]]) -> str:
    """Return rows of numbers as a Markdown table; `first` heads the names of the rows."""
    names = list(next(iter(rows.values())))
    head = f"| {first} | {' | '.join(name.replace('_', ' ') for name in names)} |"
    lines = [f"| {row} | {' | '.join(number(values[name]) for name in names)} |" for row, values in rows.items()]
    return "\n".join([head, f"|{'---|' * (len(names) + 1)}", *lines])


def number(value: float) -> str:
    """Return a number as a table shows it: whole ones as they are, others with three digits."""
    return f"{value:,}" if isinstance(value, int) else f"{value:.3f}"
