"""Weights of single blocks, as people know them by name; how many blocks there are is known when a unit is made."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from ..core.errors import UnitError

# Place of a block from 0 (shallow, fine detail) to 1 (the middle, composition) -> its weight.
SHAPES: dict[str, Callable[[float], float]] = {
    "shallow half": lambda place: float(place < 0.5),
    "deep half": lambda place: float(place >= 0.5),
    "middle only": lambda place: float(place == 1.0),
    "all but the middle": lambda place: float(place < 1.0),
    "rising": lambda place: place,
    "falling": lambda place: 1.0 - place,
}


@dataclass(frozen=True, slots=True)
class BlockWeights:
    """One of three: numbers, a base (each block times the base of the one before, the middle 1), or a named shape."""

    numbers: tuple[float, ...] | None = None
    base: float | None = None
    shape: str | None = None

    def of(self, count: int) -> tuple[float, ...]:
        """The weights of `count` blocks, the middle last."""
        if self.numbers is not None:
            return self.numbers
        if self.base is not None:
            return tuple(self.base ** (count - 1 - index) for index in range(count))
        assert self.shape is not None
        return tuple(SHAPES[self.shape](index / max(1, count - 1)) for index in range(count))


def parse_numbers(text: str) -> tuple[float, ...]:
    """Numbers with commas or spaces between them."""
    try:
        return tuple(float(part) for part in re.split(r"[,;\s]+", text.strip()) if part)
    except ValueError:
        raise UnitError(f"the block weights '{text}' are not all numbers: write such as 1, 0.8, 0.5") from None
