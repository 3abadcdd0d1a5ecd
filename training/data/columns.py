"""Which column of a listing holds the picture, the hint and the words: by the names in use, or as the user says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...core.errors import HintError

PICTURES = ("file_name", "target", "image", "picture")  # image folders, fill50k, tables of the hub
HINTS = ("conditioning_image", "conditioning_image_file_name", "source", "hint", "control_image", "conditioning")
CAPTIONS = ("text", "prompt", "caption")
SHOWN = 60  # characters of a value in a message


@dataclass(frozen=True, slots=True)
class Columns:
    """Names of columns that the user gave; None is one of the usual ones."""

    picture: str | None = None
    hint: str | None = None
    caption: str | None = None
    needs_hint: bool = True  # False: hints are made by a preprocessor

    def picture_of(self, row: Mapping[str, Any]) -> Any:
        """Return what a row says of its picture. HintError if it has no such column."""
        return row[self._name(row, self.picture, PICTURES, "--picture-column")]

    def hint_of(self, row: Mapping[str, Any]) -> Any:
        """Return what a row says of its hint; None where hints are made by a preprocessor."""
        return row[self._name(row, self.hint, HINTS, "--hint-column")] if self.needs_hint else None

    def caption_of(self, row: Mapping[str, Any]) -> str:
        """Return the words of a row. HintError if they are no text."""
        name = self._name(row, self.caption, CAPTIONS, "--caption-column")
        if not isinstance(row[name], str):
            raise HintError(
                f"the column '{name}' holds {str(row[name])[:SHOWN]!r}, expected text; an empty one is an empty prompt"
            )
        return row[name]

    def _name(self, row: Mapping[str, Any], given: str | None, usual: tuple[str, ...], option: str) -> str:
        found = next((name for name in ((given,) if given else usual) if name in row), None)
        if found is None:
            wanted = f"'{given}'" if given else " or ".join(f"'{name}'" for name in usual[:2])
            known = ", ".join(str(name)[:SHOWN] for name in row)
            raise HintError(f"it has the columns {known or 'none'}, none is {wanted}: name it with {option}")
        return found


def file_of(folder: Path, value: object, what: str) -> Path:
    """Return the path that a listing names, below its folder. HintError if it is no text, or no file.

    Listings made on Windows separate folders by backslashes, which are part of a name elsewhere.
    """
    if not isinstance(value, str) or not value:
        raise HintError(f"the name of the {what} is {str(value)[:SHOWN]!r}, expected text")
    path = folder / value
    try:
        if not path.is_file() and "\\" in value:
            path = folder / value.replace("\\", "/")
        if not path.is_file():
            raise HintError(f"the {what} '{value[:SHOWN]}' is no file in '{folder}'")
    except (OSError, ValueError) as error:  # a name that is too long, or holds a zero byte
        raise HintError(f"the {what} '{value[:SHOWN]!r}' cannot be a file's name") from error
    return path
