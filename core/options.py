"""What a control model can be told beyond a unit's own fields: an `Option`, which its family declares.

A unit says its options by name, in words; the model is bound to what they mean. Edges draw their choices from here, so
that no edge knows a family.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from .errors import UnitError

Value = str | float | bool
PLUS, COLON = "+", ":"  # between values that act together, and before the weight of one: depth:1+tile:0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One option: a choice among values, or a number between bounds."""

    name: str  # in a unit's options
    label: str  # on a page
    meaning: str
    default: Value  # what it is where a unit does not say it
    words: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])  # value -> its other names
    several: bool = False  # values may act together, each with a weight
    of_hint: bool = False  # its value is what the hint shows, so the preprocessor tells it
    needed: bool = False  # a unit has to say it, for the default says nothing
    least: float | None = None  # bounds of a number, both included
    most: float | None = None

    @property
    def expected(self) -> str:
        """Return what it may be, in words."""
        if self.words:
            return ", ".join(self.words)
        return "a number" if self.least is None else f"{self.least:g} to {self.most:g}"

    def find(self, word: str) -> str | None:
        """Return the value that a word means, in any case and with or without blanks, dashes and underscores.

        A word may name several things with slashes between, which all have to mean the same value.
        """
        meant = {self._meaning(part) for part in word.split("/")}
        return meant.pop() if len(meant) == 1 else None

    def read(self, value: object) -> Value:
        """Return the value as a model is bound to it; UnitError, which names what there is, for anything else."""
        if not self.words:
            return self._number(value)
        if not self.several:
            return self._choice(str(value))
        parts = self._parts(str(value))
        return PLUS.join(word if weight == 1 else f"{word}{COLON}{weight!r}" for word, weight in parts)

    def weighed(self, value: Value) -> tuple[tuple[str, float], ...]:
        """Return the values that act together, each with its weight; nothing for the default."""
        return () if value == self.default else tuple(self._parts(str(value)))

    def _parts(self, text: str) -> list[tuple[str, float]]:
        found: list[tuple[str, float]] = []
        for part in text.split(PLUS):
            word, colon, weight = part.partition(COLON)
            found.append((self._choice(word), self._weight(part, weight) if colon else 1.0))
        words = [word for word, _ in found]
        if len(set(words)) < len(words):
            raise UnitError(f"{self.name} is '{text}', which names a value twice: give it once, with one weight")
        if len(words) > 1 and self.default in words:
            raise UnitError(f"{self.name} is '{text}': '{self.default}' stands alone, so leave it or the others out")
        return found

    def _choice(self, word: str) -> str:
        found = self.find(word)
        if found is None:
            raise UnitError(f"{self.name} is '{word.strip()}', expected one of {self.expected}")
        return found

    def _weight(self, part: str, text: str) -> float:
        weight = _finite(text)
        if not weight:
            raise UnitError(
                f"{self.name} has '{part.strip()}', expected a number other than 0 behind the colon: leave out what "
                "has no weight"
            )
        return weight

    def _number(self, value: object) -> Value:
        if isinstance(self.default, bool):
            if not isinstance(value, bool):
                raise UnitError(f"{self.name} is '{value}', expected true or false")
            return value
        number = None if isinstance(value, bool) else _finite(value)
        if number is None or (
            self.least is not None and self.most is not None and not self.least <= number <= self.most
        ):
            raise UnitError(f"{self.name} is '{value}', expected {self.expected}")
        return number

    def _meaning(self, word: str) -> str | None:
        folded = _folded(word)
        return next((value for value, more in self.words.items() if folded in map(_folded, (value, *more))), None)


def _folded(word: str) -> str:
    return "".join(each for each in word.casefold() if each not in " _-")


def _finite(value: object) -> float | None:
    """Return a finite number; None for anything else."""
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
