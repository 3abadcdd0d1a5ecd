"""What a control network has answered before, kept for the runs to come.

A network that reads neither the latents nor the prompt answers the same whenever hint and time are the same, as they
are from picture to picture. Answers are kept in main memory: there they take nothing from the base model, and copying
one back costs little beside computing it. The oldest hints go first; the answers of one hint are asked for in turn, so
what does not fit beside those is not kept, for dropping the oldest of them would leave none when it is asked for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Sequence
from typing import cast

import torch
from torch import Tensor

from ..core.memory.bounded import Memory, bytes_of

LIMIT = 512 << 20  # bytes; 30 steps of SDXL's at 1024 px in fp16 are 315 MB
DIGEST = 16  # bytes that tell hints apart


class Remembered:
    """Answers [1, ...] by hint and by what else they depend on. device: where they are kept."""

    def __init__(self, limit: int = LIMIT, device: str = "cpu") -> None:
        self._memory, self._device = Memory(limit), device

    @property
    def bytes(self) -> int:
        """Return what is held now."""
        return self._memory.bytes

    def find(self, hint: Hashable, rest: Hashable) -> Tensor | None:
        """Return an answer, where it is kept; None: it is not."""
        found = self._memory.find((hint, rest))
        return None if found is None else found[0]

    def put(self, hint: Hashable, rest: Hashable, answer: Tensor) -> None:
        """Keep an answer, if there is room beside the others of its hint."""
        if self._memory.trim(lambda key: cast("tuple[Hashable, Hashable]", key)[0] == hint, room=bytes_of((answer,))):
            self._memory.put((hint, rest), (answer.to(self._device, copy=True),))


def digests(hints: Tensor) -> Tensor:
    """Return what tells hints [N, ...] apart: [N, 16] bytes on the CPU, so that reading them waits for nothing."""
    rows = hints.detach().cpu().contiguous().view(torch.uint8)  # bytes, since NumPy has no bfloat16
    found = [hashlib.blake2b(row.numpy().tobytes(), digest_size=DIGEST).digest() for row in rows]
    return torch.tensor([list(each) for each in found], dtype=torch.uint8)


def words_of(digests: Tensor) -> Sequence[bytes]:
    """Return digests [N, 16] as keys."""
    return [row.numpy().tobytes() for row in digests]
