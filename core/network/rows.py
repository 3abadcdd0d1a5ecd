"""The rows of a batch: taking some of them, and knowing which are the same until something sets them apart.

Hosts give the uncond and the cond rows of a picture the same latents at the same time. A network needs to compute what
depends on nothing else only once for both (`Twins`).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Twins:
    """Rows that are the same.

    first: one row of each kind, in order. kind: for every row of the batch, the position of its kind in `first`.
    """

    first: tuple[int, ...]
    kind: tuple[int, ...]

    @classmethod
    def of(cls, labels: Sequence[Hashable]) -> Twins | None:
        """Return the rows that are the same because their labels are equal; None where no two are."""
        kinds = tuple(dict.fromkeys(labels))
        if len(kinds) == len(labels):
            return None
        first = tuple(map(labels.index, kinds))
        return cls(first, tuple(map(kinds.index, labels)))

    def narrow(self, tensor: Tensor) -> Tensor:
        """Reduce [B, ...] to one row of each kind; a tensor of one row, which serves all, stays."""
        return tensor if len(tensor) == 1 else take_rows(tensor, self.first)

    def widen(self, tensor: Tensor) -> Tensor:
        """Expand one row of each kind to [B, ...]; what has B rows stays."""
        return tensor if len(tensor) == len(self.kind) else take_rows(tensor, self.kind)

    def hold_for(self, *tensors: Tensor) -> bool:
        """Return whether the rows of these tensors [B, ...] are really the same. Waits for the device once."""
        same = [(self.widen(self.narrow(tensor)) == tensor).all() for tensor in tensors]
        return bool(torch.stack(same).all())


def take_rows(tensor: Tensor, rows: tuple[int, ...]) -> Tensor:
    """Return these rows of a tensor [B, ...]: a view where they are neighbours, so that no index goes to the device."""
    first, last = rows[0], rows[-1]
    if rows == tuple(range(first, last + 1)):
        return tensor[first : last + 1]
    period = _period(rows)
    if period < len(rows):
        part = take_rows(tensor, rows[:period])
        return part.repeat(len(rows) // period, *(1,) * (tensor.ndim - 1))
    return torch.cat([tensor[row : row + 1] for row in rows])


def by_row(cond: tuple[bool, ...], positive: Tensor, negative: Tensor) -> Tensor:
    """Return `positive` on the cond rows and `negative` on the others, [B, ...], of two tensors [1 or B, ...]."""
    if all(cond) or not any(cond):
        chosen = positive if all(cond) else negative
        return chosen.expand(len(cond), *chosen.shape[1:])
    rows = (positive if each else negative for each in cond)
    return torch.cat([each[row % len(each)][None] for row, each in enumerate(rows)])


def _period(rows: tuple[int, ...]) -> int:
    """Return the length of the shortest prefix whose repetition is `rows`."""
    count = len(rows)
    return next(n for n in range(1, count + 1) if count % n == 0 and rows[:n] * (count // n) == rows)
