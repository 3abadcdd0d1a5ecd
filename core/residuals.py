"""What one evaluation of a stack adds to the base network, and the one place where it is summed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .unit import Place, Slot


@dataclass(frozen=True, slots=True, eq=False)
class Residuals:
    """Tensors [B, C, h, w] by place, in encoder order; None adds nothing. Fresh: the receiver may use them up."""

    input: tuple[Tensor | None, ...] = ()  # to the encoder stream after input block i
    middle: tuple[Tensor | None, ...] = ()  # after the middle block
    output: tuple[Tensor | None, ...] = ()  # to the skip of input block i
    context: tuple[Tensor | None, ...] = ()  # tokens [B, T, D] appended to the prompt

    def __bool__(self) -> bool:
        return bool(self.input or self.middle or self.output or self.context)

    def slots(self) -> Iterator[tuple[Slot, Tensor]]:
        """Everything that adds something, by its place."""
        places = (Place.INPUT, Place.MIDDLE, Place.OUTPUT, Place.CONTEXT)
        for place, tensors in zip(places, (self.input, self.middle, self.output, self.context), strict=True):
            yield from ((Slot(place, i), tensor) for i, tensor in enumerate(tensors) if tensor is not None)


class Accumulator:
    """One running sum per slot, so that the memory of a stack does not grow with its units.

    onto: what the host has already, [rows or 1, ...]; the sums begin with it, and its tensors are left unchanged.
    """

    def __init__(self, rows: int, onto: Residuals | None = None) -> None:
        self._rows = tuple(range(rows))
        self._sums: dict[Slot, Tensor] = {}
        self._onto = {} if onto is None else dict(onto.slots())

    def add(self, slot: Slot, residual: Tensor, scale: float, rows: tuple[int, ...]) -> None:
        """Add `scale * residual` on these rows; residual is [1, ...] or [len(rows), ...] and is left unchanged.

        The product is rounded before it is added, as in the peers (a fused multiply-add would differ in the last bit).
        """
        if slot in self._onto and slot.place is not Place.CONTEXT:
            given = self._onto.pop(slot)
            self._sums[slot] = given.expand(len(self._rows), *given.shape[1:]).clone()
        if slot.place is Place.CONTEXT:
            self._sums[slot] = self._beside(slot, residual * scale, rows)
        elif slot not in self._sums and rows == self._rows:
            self._sums[slot] = residual.expand(len(rows), *residual.shape[1:]) * scale
        else:
            if slot not in self._sums:
                self._sums[slot] = residual.new_zeros((len(self._rows), *residual.shape[1:]))
            _add_rows(self._sums[slot], residual if scale == 1.0 else residual * scale, rows)

    def _beside(self, slot: Slot, tokens: Tensor, rows: tuple[int, ...]) -> Tensor:
        """Tokens stand beside each other; rows that do not take part get zeros, as in sd-webui-controlnet."""
        full = tokens.new_zeros((len(self._rows), *tokens.shape[1:]))
        _add_rows(full, tokens, rows)
        return torch.cat([self._sums[slot], full], dim=1) if slot in self._sums else full

    def residuals(self) -> Residuals:
        """The sums; the accumulator is done with them."""
        self._sums = {**self._onto, **self._sums}
        by_place = {place: self._list(place) for place in Place}
        self._sums = {}
        return Residuals(*(by_place[place] for place in (Place.INPUT, Place.MIDDLE, Place.OUTPUT, Place.CONTEXT)))

    def _list(self, place: Place) -> tuple[Tensor | None, ...]:
        indices = [slot.index for slot in self._sums if slot.place is place]
        return tuple(self._sums.get(Slot(place, index)) for index in range(max(indices, default=-1) + 1))


def _add_rows(total: Tensor, term: Tensor, rows: tuple[int, ...]) -> None:
    """total[rows] += term, run by run of neighbouring rows, so that no index travels to the device."""
    start = 0
    for end in range(1, len(rows) + 1):
        if end == len(rows) or rows[end] != rows[end - 1] + 1:
            part = term if term.shape[0] == 1 else term[start:end]
            total[rows[start] : rows[end - 1] + 1].add_(part)
            start = end
