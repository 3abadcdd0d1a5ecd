"""Settings of a control model: what no shape tells, such as the number of attention heads.

Each family declares a frozen dataclass of them; every field says with `setting` what values it takes. They come as text
(a file's metadata, an API) or as JSON values (a file beside the model), and mean the same in both forms.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from typing import Any, Protocol, TypeVar, cast

from ..core.errors import ModelError
from .guard import shown

LIKE = 0.8  # from this similarity on, 1 being equal, a key counts as a misspelt one
YES, NO = frozenset({"true", "yes", "on", "1"}), frozenset({"false", "no", "off", "0"})


class Kind(Protocol):
    """The values that a setting takes."""

    @property
    def expected(self) -> str:
        """Return the values in words, for messages."""
        ...

    def read(self, value: object) -> object:
        """Return the value; ValueError or TypeError for anything else."""
        ...


@dataclass(frozen=True, slots=True)
class Whole:
    """A whole number between two bounds, both included."""

    minimum: int
    maximum: int

    @property
    def expected(self) -> str:
        return f"a whole number from {self.minimum} to {self.maximum}"

    def read(self, value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, (int, float, str)):
            raise TypeError
        if isinstance(value, str) and len(value) > 20:  # no such number has more digits
            raise ValueError
        number = int(value)
        if number != (float(value) if isinstance(value, float) else number):
            raise ValueError
        if not self.minimum <= number <= self.maximum:
            raise ValueError
        return number


@dataclass(frozen=True, slots=True)
class Truth:
    """Yes or no."""

    @property
    def expected(self) -> str:
        return "true or false"

    def read(self, value: object) -> bool:
        if not isinstance(value, (bool, int, str)):
            raise TypeError
        word = str(value).strip().casefold()
        if word not in YES | NO:
            raise ValueError
        return word in YES


@dataclass(frozen=True, slots=True)
class Word:
    """One of some words."""

    words: tuple[str, ...]

    @property
    def expected(self) -> str:
        return " or ".join(f"'{word}'" for word in self.words)

    def read(self, value: object) -> str:
        word = str(value).strip().casefold()
        if word not in self.words:
            raise ValueError
        return word


@dataclass(frozen=True, slots=True)
class Words:
    """Some of some words, with commas between, or a list of them; read as a text in the order of `words`."""

    words: tuple[str, ...]

    @property
    def expected(self) -> str:
        return f"words with commas between, of {', '.join(self.words)}"

    def read(self, value: object) -> str:
        parts = value.split(",") if isinstance(value, str) else cast(Iterable[object], value)
        found = {str(part).strip().casefold() for part in parts}
        if not found or not found <= set(self.words):
            raise ValueError
        return ",".join(word for word in self.words if word in found)


@dataclass(frozen=True, slots=True)
class Wholes:
    """Whole numbers between two bounds, with commas between, or a list of them; read as a text."""

    minimum: int
    maximum: int

    @property
    def expected(self) -> str:
        return f"whole numbers from {self.minimum} to {self.maximum}, with commas between"

    def read(self, value: object) -> str:
        parts = value.split(",") if isinstance(value, str) else cast(Iterable[object], value)
        numbers = [Whole(self.minimum, self.maximum).read(part) for part in parts]
        if not numbers:
            raise ValueError
        return ",".join(map(str, numbers))


@dataclass(frozen=True, slots=True)
class FileName:
    """The name of a file in the model's own folder."""

    @property
    def expected(self) -> str:
        return "the name of a file in the same folder"

    def read(self, value: object) -> str:
        if not isinstance(value, str):
            raise TypeError
        if not value.strip() or {"/", "\\", "\0"} & set(value) or value.strip() in (".", ".."):
            raise ValueError
        return value.strip()


def setting(kind: Kind, default: Any = None) -> Any:
    """Return a dataclass field that is read as `kind` says."""
    return field(default=default, metadata={"kind": kind})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What no shape tells of a network; this is for families that need nothing, and the base of the others."""


S = TypeVar("S", bound=Settings)


def read(cls: type[S], given: Mapping[str, object], what: str) -> S:
    """Return the settings of a table of names and values; null stands for a setting that is not given.

    what: whose settings these are, for messages. ModelError for unknown names and wrong values.
    """
    kinds = kinds_of(cls)
    values: dict[str, Any] = {}
    for name, value in given.items():
        if name not in kinds:
            raise ModelError(_unknown(name, kinds, what))
        if value is not None:
            values[name] = _read(name, kinds[name], value, what)
    return cls(**values)


def kinds_of(cls: type[Settings]) -> dict[str, Kind]:
    """Return what values each setting takes."""
    return {each.name: cast(Kind, each.metadata["kind"]) for each in fields(cls)}


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that another one is a misspelling of, if there is one."""
    return next(iter(get_close_matches(name[:100].casefold(), list(known), n=1, cutoff=LIKE)), None)


def _read(name: str, kind: Kind, value: object, what: str) -> object:
    try:
        return kind.read(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise ModelError(f"{what}: the setting '{name}' is '{shown(value)}', expected {kind.expected}") from error


def _unknown(name: str, known: Mapping[str, Kind], what: str) -> str:
    close = nearest(name, known)
    instead = f"did you mean '{close}'?" if close else f"it knows {', '.join(known) or 'no settings'}"
    return f"{what}: there is no setting '{shown(name)}': {instead}"
