"""Nouns as they are counted, for every sentence that has a number in it."""

from __future__ import annotations

HISSING = ("s", "x", "ch", "sh")  # ends of words whose plural has an e


def plural(noun: str, count: int) -> str:
    """Return a noun as it is counted, such as 'step', 'steps' and 'processes'."""
    if count == 1:
        return noun
    return noun + ("es" if noun.endswith(HISSING) else "s")


def counted(count: int, noun: str) -> str:
    """Return a number with its noun, such as '1 picture' and '2 pictures'."""
    return f"{count} {plural(noun, count)}"
