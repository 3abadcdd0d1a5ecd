"""Weights of single blocks as people say them; how many blocks there are is known when the model is loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from ..core.errors import UnitError
from ..core.wording import shortest

# Place of a block from 0 (shallow, fine detail) to 1 (the middle, composition) -> its weight.
SHAPES: Mapping[str, Callable[[float], float]] = MappingProxyType(
    {
        "shallow half": lambda place: float(place < 0.5),
        "deep half": lambda place: float(place >= 0.5),
        "middle only": lambda place: float(place == 1.0),
        "all but the middle": lambda place: float(place < 1.0),
        "rising": lambda place: place,
        "falling": lambda place: 1.0 - place,
    }
)


LARGEST, LARGEST_BASE = 100.0, 2.0  # a number, and a base, which is raised to the power of blocks


@dataclass(frozen=True, slots=True)
class BlockWeights:
    """One of three: numbers, a base (each block times the base of the one before, the middle 1), or a named shape.

    They replace the factors of the unit's mode, and are multiplied by its weight.
    """

    numbers: tuple[float, ...] | None = None
    base: float | None = None
    shape: str | None = None

    def __post_init__(self) -> None:
        said = [each for each in (self.numbers, self.base, self.shape) if each is not None]
        if len(said) != 1 or self.numbers == ():
            raise UnitError("block weights are one of three: numbers, a base, or the name of a shape")
        if self.shape is not None and self.shape not in SHAPES:
            raise UnitError(f"there is no shape of block weights '{self.shape}': choose one of {', '.join(SHAPES)}")

        largest = LARGEST_BASE if self.base is not None else LARGEST
        wrong = [each for each in (*(self.numbers or ()), *_given(self.base)) if not -largest <= each <= largest]
        if wrong:
            bounds = f"{-largest:g} to {largest:g}"
            raise UnitError(f"block weights hold {shortest(wrong[0])}, expected numbers from {bounds}")

    def of(self, count: int) -> tuple[float, ...]:
        """Return the weights of `count` blocks, the middle last; numbers are returned as they are."""
        if self.numbers is not None:
            return self.numbers
        if self.base is not None:
            return tuple(self.base ** (count - 1 - index) for index in range(count))
        assert self.shape is not None
        return tuple(SHAPES[self.shape](index / max(1, count - 1)) for index in range(count))


def _given(base: float | None) -> tuple[float, ...]:
    return () if base is None else (base,)
