"""Numbers and nouns as sentences have them: one way for all."""

from __future__ import annotations

LONGEST = 1e15  # of whole numbers that are written with all their digits; beyond, a float has not all of them
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
