r"""Weights of words in a prompt, in the notation of the WebUIs.

`(word)` is 1.1 times as strong, `[word]` 1.1 times weaker, `(word:1.3)` 1.3 times as strong; they may be nested, and
one that is never closed reaches to the end. A backslash takes a bracket literally. BREAK, in capitals, begins a new
chunk of tokens. Prompt editing (`[from:to:0.5]`) and AND are not read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby

from ...core.errors import HostError

STRONGER = 1.1  # of a pair of round brackets; square ones divide by it
SIGN = re.compile(r"\\[()\[\]\\]|\\|:\s*(?P<weight>[+-]?[.\d]+)\s*\)|[()\[\]:]|[^\\()\[\]:]+")
BREAK = re.compile(r"\s*\bBREAK\b\s*")
LORA_TAG = re.compile(r"<(?:lora|lyco|hypernet):[^<>]*>")


@dataclass(frozen=True, slots=True)
class Words:
    """Words of one weight; `breaks` means that a new chunk begins instead, without words."""

    text: str
    weight: float = 1.0
    breaks: bool = False


def read_prompt(prompt: str) -> tuple[Words, ...]:
    """Return the words of a prompt with their weights. HostError for tags that name a LoRA."""
    if tag := LORA_TAG.search(prompt):
        raise HostError(f"the prompt holds {tag[0]}, which is not read there: take it out and give --lora FILE:0.8")
    return tuple(_joined(_broken(_weighted(prompt)))) or (Words(""),)


def _weighted(prompt: str) -> list[Words]:
    """Return the pieces of a prompt, each with the product of the weights around it."""
    pieces: list[Words] = []
    opened: dict[str, list[int]] = {"(": [], "[": []}  # numbers of the pieces before which a bracket stands

    def weigh(begin: int, factor: float) -> None:
        pieces[begin:] = [Words(each.text, each.weight * factor) for each in pieces[begin:]]

    for match in SIGN.finditer(prompt):
        sign = match[0]
        if sign in opened:
            opened[sign].append(len(pieces))
        elif match["weight"] is not None and opened["("]:
            weigh(opened["("].pop(), _number(match["weight"]))
        elif sign == ")" and opened["("]:
            weigh(opened["("].pop(), STRONGER)
        elif sign == "]" and opened["["]:
            weigh(opened["["].pop(), 1 / STRONGER)
        else:
            pieces.append(Words(sign.removeprefix("\\")))
    for begin in opened["("]:
        weigh(begin, STRONGER)
    for begin in opened["["]:
        weigh(begin, 1 / STRONGER)
    return pieces


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise HostError(f"'{text}' in the prompt is no weight: write a number, as in (word:1.3)") from None


def _broken(pieces: Iterable[Words]) -> Iterator[Words]:
    """Yield the pieces, with a break between the parts that a BREAK divides."""
    for piece in pieces:
        for number, part in enumerate(BREAK.split(piece.text)):
            if number:
                yield Words("", breaks=True)
            yield Words(part, piece.weight)


def _joined(pieces: Iterable[Words]) -> Iterator[Words]:
    """Yield the pieces with neighbours of one weight joined, so that words are not cut where brackets stood."""
    for (breaks, weight), group in groupby(pieces, key=lambda each: (each.breaks, each.weight)):
        several = list(group)
        if breaks:
            yield from several
        elif text := "".join(each.text for each in several):
            yield Words(text, weight)
