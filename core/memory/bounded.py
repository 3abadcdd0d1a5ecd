"""Tensors under keys, up to a number of bytes: the least recently used ones make room, and what is spared stays."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import NamedTuple

from torch import Tensor

Tensors = tuple[Tensor, ...]


class _Entry(NamedTuple):
    tensors: Tensors
    of: object  # what the key names by its id, held here so that the id cannot come again


class Memory:
    """What is kept, with at most `limit` bytes once it is trimmed."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._entries: OrderedDict[Hashable, _Entry] = OrderedDict()
        self.bytes = 0  # held now

    def find(self, key: Hashable) -> Tensors | None:
        """Return the tensors under a key, which are the last used ones now; None: there are none."""
        if key not in self._entries:
            return None
        self._entries.move_to_end(key)
        return self._entries[key].tensors

    def put(self, key: Hashable, tensors: Tensors, of: object = None) -> None:
        """Keep tensors under a key, in place of what was there. of: what the key names by its id."""
        if key in self._entries:
            self.drop(key)
        self._entries[key] = _Entry(tensors, of)
        self.bytes += bytes_of(tensors)

    def drop(self, key: Hashable) -> None:
        """Forget what is under a key."""
        self.bytes -= bytes_of(self._entries.pop(key).tensors)

    def trim(self, spared: Callable[[Hashable], bool], room: int = 0) -> bool:
        """Drop the oldest while there is too much, up to the first key that is spared; return whether it was enough.

        room: bytes that are to be free then.
        """
        while self._entries and self.bytes + room > self._limit and not spared(oldest := next(iter(self._entries))):
            self.drop(oldest)
        return self.bytes + room <= self._limit

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()
        self.bytes = 0


def bytes_of(tensors: Tensors) -> int:
    """Return how many bytes some tensors take."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
