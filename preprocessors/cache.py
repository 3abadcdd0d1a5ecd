"""Hints that were made before: a person changes a prompt far more often than a picture.

A hint is remembered by the content of its picture and mask, by the preprocessor and its version, its parameters and
what its weights are. Pictures of a batch are remembered one by one, so a batch and its pictures share hints.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from threading import Lock
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from .resize import Image
else:
    from .lazy import np

CAPACITY = 256 * 2**20  # bytes; 340 hints of 512 x 512
DIGEST = 16  # bytes of a key


class ResultCache:
    """The most recent hints, up to so many bytes; 0 keeps none. Safe to use from several threads."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self.capacity = capacity
        self.bytes = 0
        self.hits = self.misses = 0
        self._hints: OrderedDict[bytes, Image] = OrderedDict()
        self._lock = Lock()

    def through(self, about: bytes, batch: Image, masks: Image | None, make: Callable[[Sequence[int]], Image]) -> Image:
        """Return the hints [B, h, w, C] of pictures [B, H, W, 3] and masks [B, H, W].

        about: everything but picture and mask that decides about a hint. make: gives the hints of the rows that are
        not known, once and together.
        """
        rows = range(len(batch))
        if not self.capacity:
            return make(rows)
        keys = [_key(about, batch[row], None if masks is None else masks[row]) for row in rows]
        known = {key: hint for key in keys if (hint := self._get(key)) is not None}
        todo = {key: row for row, key in enumerate(keys) if key not in known}  # of equal pictures, one
        if todo:
            for key, hint in zip(todo, make(list(todo.values())), strict=True):
                known[key] = hint
                self._put(key, hint)
        return np.stack([known[key] for key in keys])

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._hints.clear()
            self.bytes = 0

    def _get(self, key: bytes) -> Image | None:
        with self._lock:
            hint = self._hints.get(key)
            if hint is None:
                self.misses += 1
                return None
            self.hits += 1
            self._hints.move_to_end(key)
            return hint

    def _put(self, key: bytes, hint: Image) -> None:
        if hint.nbytes > self.capacity:
            return
        kept = np.array(hint)  # callers may change theirs
        with self._lock:
            self.bytes += kept.nbytes - (self._hints.pop(key).nbytes if key in self._hints else 0)
            self._hints[key] = kept
            while self.bytes > self.capacity:
                self.bytes -= self._hints.popitem(last=False)[1].nbytes


def _key(about: bytes, picture: Image, mask: Image | None) -> bytes:
    """Return the digest under which the hint of a picture [H, W, 3] with a mask [H, W] is kept."""
    digest = hashlib.blake2b(about, digest_size=DIGEST)
    digest.update(repr(picture.shape).encode())
    digest.update(picture.tobytes())
    if mask is not None:
        digest.update(mask.tobytes())
    return digest.digest()
