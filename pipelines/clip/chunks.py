"""Tokens of a prompt in chunks: CLIP reads 77 at once, of which the first and the last are its own.

A longer prompt becomes several chunks, which are read one by one and lie behind each other for the base model, as in
the WebUIs. Where a chunk is full within 20 tokens of a comma, what follows the comma goes into the next one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from .emphasis import Words

BACKTRACK = 20  # tokens after a comma that may go into the next chunk

Tokenize = Callable[[str], Sequence[int]]


@dataclass
class Chunk:
    """Tokens with a weight for each, without start and end."""

    tokens: list[int] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)

    def add(self, token: int, weight: float) -> None:
        """Add a token."""
        self.tokens.append(token)
        self.weights.append(weight)

    def cut(self, place: int) -> Chunk:
        """Take away the tokens from a place on, and return them as a chunk."""
        rest = Chunk(self.tokens[place:], self.weights[place:])
        del self.tokens[place:], self.weights[place:]
        return rest


def make_chunks(words: Sequence[Words], tokenize: Tokenize, comma: int, length: int) -> list[Chunk]:
    """Return the chunks of a prompt, at least one, of at most `length` tokens. comma: the token of a comma."""
    chunks = [Chunk()]
    after_comma = 0  # the place behind the last comma of the present chunk; 0 without one
    for part in words:
        if part.breaks:
            chunks.append(Chunk())
            after_comma = 0
            continue
        for token in tokenize(part.text):
            if len(chunks[-1].tokens) == length:
                near = after_comma and length - after_comma < BACKTRACK and token != comma
                chunks.append(chunks[-1].cut(after_comma) if near else Chunk())
                after_comma = 0
            chunks[-1].add(token, part.weight)
            if token == comma:
                after_comma = len(chunks[-1].tokens)
    return chunks if chunks[-1].tokens or len(chunks) == 1 else chunks[:-1]
