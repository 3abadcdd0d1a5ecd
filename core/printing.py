"""Lines for a terminal, a page or a client: whatever a file is called, nothing of its name is obeyed."""

from __future__ import annotations

import sys
import unicodedata

SPACE = "Zs"  # Unicode's category of blanks, which `str.isprintable` takes for control characters but for one


def printable(text: str) -> str:
    """Return text on one line: control characters (Cc), directions of writing (Cf) and bytes that are none, escaped."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or unicodedata.category(c) == SPACE else _escaped(c) for c in text)


def print_line(text: str, *, error: bool = False) -> None:
    """Print one line, to the standard output or to that of errors."""
    print(printable(text), file=sys.stderr if error else sys.stdout, flush=True)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")
