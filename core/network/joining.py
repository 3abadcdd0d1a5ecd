"""Effects on parts of a batch, whose rows see different windows of a picture: cut for a part, and joined to the whole.

Hosts evaluate several tiles or regions in one call, and units act on each by itself, since a step has one window.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from .effects import Effects, Vector, summed
from .points import Point
from .rows import take_rows

Rows = tuple[int, ...]
Change = Callable[[Tensor], Tensor]


def part_of(given: Effects, rows: Rows) -> Effects:
    """Return what is added on these rows of all; a shift, which acts on all rows at once, is left out."""
    places = (given.input, given.middle, given.output, given.tokens)
    parts = (tuple(None if each is None else _taken(each, rows) for each in place) for place in places)
    vector = None if given.vector is None else _vector_of(given.vector, rows)
    return replace(Effects(*parts), vector=vector)  # pyright: ignore[reportArgumentType]


def joined(parts: Sequence[tuple[Rows, Effects]]) -> Effects:
    """Return effects on parts of a batch, each with its rows, as those on all rows; a part may have none of a place."""
    if len(parts) == 1:
        return parts[0][1]
    rows = [each for each, _ in parts]
    found = [each for _, each in parts]
    return Effects(
        input=_places(rows, [each.input for each in found]),
        middle=_places(rows, [each.middle for each in found]),
        output=_places(rows, [each.output for each in found]),
        tokens=_places(rows, [each.tokens for each in found]),
        vector=_vectors(rows, [each.vector for each in found]),
        shifts=_shifts(rows, [each.shifts for each in found]),
    )


def with_shifts(effects: Effects, shifts: Mapping[Point, Change]) -> Effects:
    """Return effects with shifts of all rows beside theirs: what stands at a point is shown to both, and both add."""
    points = dict.fromkeys((*shifts, *effects.shifts))
    both = {point: [each[point] for each in (shifts, effects.shifts) if point in each] for point in points}
    return replace(effects, shifts={point: summed(changes) for point, changes in both.items()})


def _taken(tensor: Tensor, rows: Rows) -> Tensor:
    return tensor.expand(len(rows), *tensor.shape[1:]) if len(tensor) == 1 else take_rows(tensor, rows)


def _in_order(rows: Sequence[Rows], parts: Sequence[Tensor]) -> Tensor:
    """Return the rows of the parts in the order in which the batch has them."""
    said = [row for each in rows for row in each]
    whole = torch.cat([_taken(part, tuple(range(len(each)))) for each, part in zip(rows, parts, strict=True)])
    return take_rows(whole, tuple(sorted(range(len(said)), key=said.__getitem__)))


def _places(rows: Sequence[Rows], parts: Sequence[tuple[Tensor | None, ...]]) -> tuple[Tensor | None, ...]:
    count = max(map(len, parts))
    return tuple(_place(rows, [part[k] if k < len(part) else None for part in parts]) for k in range(count))


def _place(rows: Sequence[Rows], parts: Sequence[Tensor | None]) -> Tensor | None:
    like = next((part for part in parts if part is not None), None)
    if like is None:
        return None
    return _in_order(
        rows,
        [
            like.new_zeros((len(each), *like.shape[1:])) if part is None else part
            for each, part in zip(rows, parts, strict=True)
        ],
    )


def _shifts(rows: Sequence[Rows], parts: Sequence[Mapping[Point, Change]]) -> dict[Point, Change]:
    points = dict.fromkeys(point for part in parts for point in part)
    return {point: _shift(rows, [part.get(point, torch.zeros_like) for part in parts]) for point in points}


def _shift(rows: Sequence[Rows], changes: Sequence[Change]) -> Change:
    """Return one shift of all rows: each part of them has its own."""

    def shift(h: Tensor) -> Tensor:
        return _in_order(rows, [change(take_rows(h, each)) for change, each in zip(changes, rows, strict=True)])

    return shift


def _vector_of(vector: Vector, rows: Rows) -> Vector:
    """Return what stands in place of the pooled prompt on these rows, counted from the first of them."""
    known, silent = (
        tuple(place for place, row in enumerate(rows) if row in each) for each in (vector.rows, vector.silent)
    )
    return Vector(_taken(vector.values, rows), known, silent)


def _vectors(rows: Sequence[Rows], parts: Sequence[Vector | None]) -> Vector | None:
    """Return what stands in place of the pooled prompt on all rows."""
    present = [(each, part) for each, part in zip(rows, parts, strict=True) if part is not None]
    if not present:
        return None
    values = _place(rows, [None if part is None else part.values for part in parts])
    assert values is not None
    return Vector(
        values,
        tuple(sorted(each[place] for each, part in present for place in part.rows)),
        tuple(sorted(each[place] for each, part in present for place in part.silent)),
    )
