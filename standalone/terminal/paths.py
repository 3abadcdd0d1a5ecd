"""Paths that a command is given, checked before anything that takes seconds is imported."""

from __future__ import annotations

from pathlib import Path

STANDARD_INPUT = "-"  # as other programs call it


def check_path(path: Path, what: str) -> None:
    """Raise FileError for a path that leads nowhere, or is standard input. what: such as 'model'."""
    from ...core.errors import FileError

    if str(path) == STANDARD_INPUT:
        raise FileError(f"a {what} cannot be read from standard input ({path}): write it into a file, and give that")
    if not path.exists():
        raise FileError(f"there is no {what} {path}: check the path")
