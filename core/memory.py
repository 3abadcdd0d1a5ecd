"""A cache of tensors that drops the least recently used ones beyond a bound (LRU).

A picture that is drawn whole needs a few tensors at every step, and they stay. A picture that is drawn in a hundred
tiles, or a film in windows of frames, has a hundred times as many: the oldest make room, and are computed again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import NamedTuple

from torch import Tensor

Kept = tuple[Tensor, ...]


class _Entry(NamedTuple):
    tensors: Kept
    of: object  # what the key names by its id, held here so that the id cannot come again


class Memory:
    """Tensors by key, of at most `limit` bytes in all, except that what one evaluation uses stays until its end."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._entries: OrderedDict[Hashable, _Entry] = OrderedDict()
        self._used: set[Hashable] = set()  # since the evaluation began
        self.bytes = 0  # held now

    def begin(self) -> None:
        """Begin an evaluation: what only earlier ones used may be dropped from now on."""
        self._used.clear()

    def keep(self, key: Hashable, make: Callable[[], Kept], of: object = None) -> Kept:
        """Return the tensors under a key; `make` computes them if there are none."""
        if key not in self._entries:
            tensors = make()
            self._entries[key] = _Entry(tensors, of)
            self.bytes += _bytes(tensors)
        self._entries.move_to_end(key)
        self._used.add(key)
        self._make_room()
        return self._entries[key].tensors

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()
        self._used.clear()
        self.bytes = 0

    def _make_room(self) -> None:
        while self.bytes > self._limit and (oldest := next(iter(self._entries))) not in self._used:
            self.bytes -= _bytes(self._entries.pop(oldest).tensors)


def _bytes(tensors: Kept) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
