"""Pictures in folders: one listing for every edge, in the order that people expect, which tells what it left out."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..core.errors import HintError
from ..core.files import files_below
from .images import suffixes

NUMBER = re.compile(r"([0-9]+)")
UNREADABLE, LINK, DEVICE = "folder that cannot be read", "broken link", "device or pipe"
PLURALS = {UNREADABLE: "folders that cannot be read", LINK: "broken links", DEVICE: "devices or pipes"}


@dataclass(frozen=True, slots=True)
class Listing:
    """The files of a folder that are read, and how many others there are of each suffix, or of what is no file."""

    files: tuple[Path, ...]
    left_out: Mapping[str, int]

    def remark(self) -> str:
        """Return what was left out in words, such as "2 .txt and 1 without a suffix"; empty if nothing was."""
        kinds = sorted(self.left_out.items(), key=lambda each: (-each[1], each[0]))
        return " and ".join(_counted(count, kind) for kind, count in kinds)


def list_pictures(
    folder: Path, *, deep: bool = False, also: Collection[str] = (), outside: Path | None = None
) -> Listing:
    """Return the pictures of a folder in natural order: frame2 before frame10.

    deep: those of the folders in it too, linked ones as well. also: further suffixes that are read, such as ".mp4".
    outside: a folder whose files are not looked at. Names that begin with a dot are never listed and never counted:
    programs hide their own files so (`.DS_Store`, `._photo.png`). HintError if the folder cannot be read.
    """
    known = {*suffixes(), *also}
    try:
        inside = files_below(folder) if deep else _in(folder)
        files = sorted(inside, key=lambda path: natural(path.relative_to(folder).parts))
    except OSError as error:
        raise HintError(f"cannot read the folder {folder}: {error.strerror or error}") from error
    if outside is not None:
        hidden = Path(os.path.realpath(outside))
        files = [path for path in files if hidden not in Path(os.path.realpath(path)).parents]
    reads = {path: path.suffix.lower() in known and path.is_file() for path in files}
    left_out = Counter(_kind(path) for path, read in reads.items() if not read)
    return Listing(tuple(path for path, read in reads.items() if read), left_out)


def _in(folder: Path) -> list[Path]:
    """Return the files that lie in a folder itself."""
    return [path for path in folder.iterdir() if not path.name.startswith(".") and not path.is_dir()]


def _counted(count: int, kind: str) -> str:
    """Return how many of a kind were left out; suffixes have no plural."""
    if not kind:
        return f"{count} without a suffix"
    return f"{count} {PLURALS.get(kind, kind) if count > 1 else kind}"


def _kind(path: Path) -> str:
    """Return what a path is that is left out: a suffix, or what is no file."""
    if path.is_file():
        return path.suffix.lower()
    if path.is_dir():
        return UNREADABLE
    return LINK if path.is_symlink() else DEVICE


def natural(parts: Sequence[str]) -> list[list[tuple[int, str]]]:
    """Return what the parts of a path are sorted by: numbers by their value, the rest by its lower-case letters."""
    return [
        [(int(part), part) if number % 2 else (0, part.lower()) for number, part in enumerate(NUMBER.split(name))]
        for name in parts
    ]
