"""How sentences for people are written: their numbers and nouns, and that they are one printable line.

Whatever a file is called, nothing of its name is obeyed by a terminal, a page or a client.
"""

from __future__ import annotations

import sys
import unicodedata

LONGEST = 1e15  # of whole numbers that are written with all their digits; beyond, a float has not all of them
SPACE = "Zs"  # Unicode's category of blanks, which `str.isprintable` takes for control characters but for one
HISSING = ("s", "x", "ch", "sh")  # ends of words whose plural has an e


def plural(noun: str, count: int) -> str:
    """Return a noun as it is counted, such as 'step', 'steps' and 'processes'."""
    if count == 1:
        return noun
    return noun + ("es" if noun.endswith(HISSING) else "s")


def counted(count: int, noun: str) -> str:
    """Return a number with its noun, such as '1 picture' and '2 pictures'."""
    return f"{count} {plural(noun, count)}"


def shortest(number: float) -> str:
    """Return the shortest text that is read as the same number: 1, 0.8, 10.0000001, 8192."""
    if isinstance(number, int):
        return str(number)
    if number.is_integer() and abs(number) < LONGEST:
        return str(int(number))
    brief = f"{number:g}"
    return brief if float(brief) == number else repr(number)


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
