"""Examples inside WebDataset archives (tar).

Of an archive only the table of contents is read; pictures are read from their place when they are needed. Its members
are named `KEY.FIELD`, and those of one key are one example (github.com/webdataset/webdataset, README).
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...core.errors import ControlError, HintError
from ...preprocessors.images import suffixes
from .columns import HINTS, PICTURES, Columns
from .example import Bad, Example

TEXT_FIELDS = ("txt", "text", "caption")


@dataclass(frozen=True, slots=True)
class Member:
    """A file inside a tar archive that is not compressed."""

    archive: Path
    name: str
    offset: int
    size: int

    def read(self) -> bytes:
        """Return its bytes. HintError if the archive ends before them."""
        with self.archive.open("rb") as file:
            file.seek(self.offset)
            data = file.read(self.size)
        if len(data) < self.size:
            raise HintError(f"'{self.archive}' ends inside {self.name}: get the archive again")
        return data


def read_archives(paths: Sequence[Path], columns: Columns) -> Iterator[Example | Bad]:
    """Yield the examples of WebDataset archives. HintError for what is no tar file."""
    for path in paths:
        try:
            with tarfile.open(path, "r:") as archive:
                files = [each for each in archive if each.isfile()]
        except (tarfile.TarError, OSError, EOFError) as error:
            raise HintError(f"'{path}' is no tar archive without compression ({error}): get it again") from error
        keys: dict[str, dict[str, Member]] = {}
        for each in files:
            folder, _, name = each.name.rpartition("/")
            key, _, field = name.partition(".")
            if key:  # others are files of macOS and the like
                member = Member(path, f"{each.name} of '{path}'", each.offset_data, each.size)
                keys.setdefault(f"{folder}/{key}" if folder else key, {})[field.lower()] = member
        yield from (_of_key(path, key, fields, columns) for key, fields in keys.items())


def _of_key(path: Path, key: str, fields: Mapping[str, Member], columns: Columns) -> Example | Bad:
    place = f"'{key}' of '{path}'"
    try:
        picture = _picture(fields, columns.picture, ("", *PICTURES), "--picture-column")
        hint = _picture(fields, columns.hint, HINTS, "--hint-column") if columns.needs_hint else None
        return Example(picture, hint, _words(fields, columns), place)
    except ControlError as error:
        return Bad(place, str(error))


def _picture(fields: Mapping[str, Member], given: str | None, usual: Sequence[str], option: str) -> Member:
    """Return the picture whose field is `NAME.png` or the like; an empty name is that of a field `png` alone."""
    endings = [suffix.removeprefix(".") for suffix in suffixes()]
    for name in (given,) if given else usual:
        wanted = [name, *(f"{name}.{ending}" for ending in endings)] if name else endings
        if found := next((fields[field] for field in wanted if field in fields), None):
            return found
    raise HintError(f"it has the fields {', '.join(fields)}, none is {given or usual[-1]}.png: name it with {option}")


def _words(fields: Mapping[str, Member], columns: Columns) -> str:
    """Return the words of an example: a text file, or a column of its JSON file."""
    name = next((name for name in ((columns.caption,) if columns.caption else TEXT_FIELDS) if name in fields), None)
    try:
        if name is not None:
            return fields[name].read().decode("utf-8-sig").strip()
        if "json" not in fields:
            raise HintError(
                f"it has the fields {', '.join(fields)}, none is txt or json: name it with --caption-column"
            )
        table = json.loads(fields["json"].read())
    except (ValueError, RecursionError) as error:
        raise HintError("its words are no text in UTF-8, or no JSON") from error
    if not isinstance(table, dict):
        raise HintError("its JSON holds no table of names and values")
    return columns.caption_of(table)
