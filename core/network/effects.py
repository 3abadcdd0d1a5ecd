"""What units do to the base network at one evaluation, and the one place where it is summed.

A control model yields pairs of a point and an effect:

- a tensor is known before the base network runs: it is added at its point; at the prompt it stands beside its tokens,
  and at the vector condition in place of the pooled prompt (`Vector`);
- a `Shift` is a function of what the base network has at its point, and is added there as well;
- a `Watch` looks at what stands at its point and adds nothing.

A `WeightDelta` changes weights of the base network for the whole run. Everything else that a unit promises (weight,
range, rows, mask) is applied here and in `stack.py`, the same for every effect.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..errors import HintError
from .points import PROMPT, Block, Part, Point, skip, stream


@dataclass(frozen=True, slots=True, eq=False)
class Shift:
    """A change that is computed at its point: what stands there [B, ...] -> what is added to it, of the same shape."""

    function: Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class Watch:
    """A look at what stands at a point, [B, ...]; it adds nothing, and its point need not be one of the model's."""

    function: Callable[[Tensor], None]


Effect = Tensor | Shift | Watch


@dataclass(frozen=True, slots=True, eq=False)
class WeightDelta:
    """Differences to weights of the base U-Net, by bare ldm names, added for the whole run.

    tensors: [out, in, ...] like the weight. low_rank: (up [out, r], down [r, in, ...], scale), added as their product.
    """

    tensors: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    low_rank: Mapping[str, tuple[Tensor, Tensor, float]] = field(
        default_factory=dict[str, tuple[Tensor, Tensor, float]]
    )

    @property
    def names(self) -> frozenset[str]:
        """Return the names of the weights that it changes."""
        return frozenset(self.tensors) | frozenset(self.low_rank)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of one weight's difference."""
        if name in self.tensors:
            return tuple(self.tensors[name].shape)
        up, down, _ = self.low_rank[name]
        return (len(up), *down.shape[1:])

    def of(self, name: str) -> Tensor:
        """Return the whole difference of one weight, in fp32."""
        total = self.tensors[name].float() if name in self.tensors else None
        if name in self.low_rank:
            up, down, scale = self.low_rank[name]
            product = (up.float() @ down.float().flatten(1)).reshape(len(up), *down.shape[1:]) * scale
            total = product if total is None else total + product
        assert total is not None
        return total


@dataclass(frozen=True, slots=True, eq=False)
class Vector:
    """What stands in place of the pooled prompt, the first D values of the vector condition, on some rows of a batch.

    Several controls are summed, and their sum replaces what was there, as in sd-webui-controlnet.
    """

    values: Tensor  # [B, D]
    rows: tuple[int, ...]  # on which they stand
    silent: tuple[int, ...] = ()  # rows whose prompt is silent: its tokens are zeros

    def vector(self, y: Tensor) -> Tensor:
        """Return the vector condition [B, A] with these values in it. HintError where it is narrower than they are."""
        width = self.values.shape[1]
        if width > y.shape[1]:
            raise HintError(
                f"a control puts {width} values in place of the pooled prompt, and the vector condition of the base "
                f"model has {y.shape[1]}: choose the image encoder that the base model was trained with"
            )
        changed = y.clone()
        for row in self.rows:
            changed[row, :width] = self.values[row].to(y)
        return changed

    def prompt(self, context: Tensor) -> Tensor:
        """Return the prompt [B, T, D] with zeros on its silent rows."""
        if not self.silent:
            return context
        changed = context.clone()
        for row in self.silent:
            changed[row] = 0
        return changed


@dataclass(frozen=True, slots=True, eq=False)
class Effects:
    """What one evaluation adds to the base network: tensors [B, C, h, w] by place, in encoder order; None adds nothing.

    Fresh: the receiver may use the tensors up. A shift [B, ...] -> [B, ...] sees what stands at its point with the
    tensors of that point added.
    """

    input: tuple[Tensor | None, ...] = ()  # to the stream after input block i
    middle: tuple[Tensor | None, ...] = ()  # after the middle block
    output: tuple[Tensor | None, ...] = ()  # to the skip of input block i
    tokens: tuple[Tensor | None, ...] = ()  # [B, T, D] beside the prompt
    vector: Vector | None = None
    shifts: Mapping[Point, Callable[[Tensor], Tensor]] = field(default_factory=dict[Point, Callable[[Tensor], Tensor]])

    def __bool__(self) -> bool:
        added = self.input or self.middle or self.output or self.tokens
        return bool(added or self.shifts) or self.vector is not None

    def tensors(self) -> Iterator[tuple[Point, Tensor]]:
        """Yield every tensor that is added, with its point; of the conditions see `vector`."""
        places: tuple[tuple[Callable[[int], Point], tuple[Tensor | None, ...]], ...] = (
            (stream, self.input),
            (_middle, self.middle),
            (skip, self.output),
            (_prompt, self.tokens),
        )
        for point_of, tensors in places:
            yield from ((point_of(i), tensor) for i, tensor in enumerate(tensors) if tensor is not None)


class Accumulator:
    """One running sum per point, so that the memory of a stack does not grow with its units.

    onto: what the host has already, [rows or 1, ...]; the sums begin with it, and its tensors are left unchanged.
    """

    def __init__(self, rows: int, onto: Effects | None = None) -> None:
        self._rows = tuple(range(rows))
        self._sums: dict[Point, Tensor] = {}
        given = Effects() if onto is None else onto
        self._onto = {point: tensor for point, tensor in given.tensors() if point.block is not Block.PROMPT}
        tokens = [each for each in given.tokens if each is not None]
        if tokens:
            self._onto[PROMPT] = torch.cat(tokens, dim=1)
        self._shifts = {point: [shift] for point, shift in given.shifts.items()}
        self._vector = given.vector

    def add(self, point: Point, residual: Tensor, scale: float, rows: tuple[int, ...]) -> None:
        """Add `scale * residual` on these rows; residual is [1, ...] or [len(rows), ...] and is left unchanged.

        The product is rounded before it is added, as in the peers (a fused multiply-add would differ in the last bit).
        """
        if point in self._onto:
            given = self._onto.pop(point)
            self._sums[point] = given.expand(len(self._rows), *given.shape[1:]).clone()
        if point == PROMPT:
            self._sums[point] = self._beside(point, residual * scale, rows)
        elif point not in self._sums and rows == self._rows:
            self._sums[point] = residual.expand(len(rows), *residual.shape[1:]) * scale
        else:
            if point not in self._sums:
                self._sums[point] = residual.new_zeros((len(self._rows), *residual.shape[1:]))
            add_rows(self._sums[point], residual if scale == 1.0 else residual * scale, rows)

    def shift(self, point: Point, change: Callable[[Tensor], Tensor]) -> None:
        """Add a function of what stands at the point: [B, ...] -> what is added, [B, ...]."""
        self._shifts.setdefault(point, []).append(change)

    def replace(self, values: Tensor, scale: float, rows: tuple[int, ...], *, silent: bool) -> None:
        """Put `scale * values`, [1 or len(rows), D], in place of the pooled prompt on these rows, added to others'.

        silent: their prompt is silent as well.
        """
        before = self._vector
        total = values.new_zeros((len(self._rows), values.shape[1])) if before is None else before.values.clone()
        add_rows(total, values * scale, rows)
        known, quiet = ((), ()) if before is None else (before.rows, before.silent)
        self._vector = Vector(total, _union(known, rows), _union(quiet, rows if silent else ()))

    @property
    def vector(self) -> Vector | None:
        """Return what stands in place of the pooled prompt so far."""
        return self._vector

    @property
    def tokens(self) -> Tensor | None:
        """Return what stands beside the prompt so far, [B, T, D]."""
        return self._sums.get(PROMPT, self._onto.get(PROMPT))

    def effects(self) -> Effects:
        """Return the sums; the accumulator is done with them."""
        sums, self._sums = {**self._onto, **self._sums}, {}
        rows = {row: {point: sums.pop(point) for point in list(sums) if _KINDS[row](point)} for row in _KINDS}
        for point, tensor in sums.items():  # hosts have no list for these points, but add what a shift returns there
            self._shifts.setdefault(point, []).insert(0, _constant(tensor))
        return Effects(
            **{row: _in_order(tensors) for row, tensors in rows.items()},
            vector=self._vector,
            shifts={point: summed(changes) for point, changes in self._shifts.items()},
        )

    def _beside(self, point: Point, tokens: Tensor, rows: tuple[int, ...]) -> Tensor:
        """Put tokens beside each other; rows that do not take part get zeros, as in sd-webui-controlnet."""
        full = tokens.new_zeros((len(self._rows), *tokens.shape[1:]))
        add_rows(full, tokens, rows)
        return torch.cat([self._sums[point], full], dim=1) if point in self._sums else full


def add_rows(total: Tensor, term: Tensor, rows: tuple[int, ...]) -> None:
    """Add `term` to these rows of `total`, run by run of neighbouring rows, so that no index travels to the device."""
    start = 0
    for end in range(1, len(rows) + 1):
        if end == len(rows) or rows[end] != rows[end - 1] + 1:
            part = term if term.shape[0] == 1 else term[start:end]
            total[rows[start] : rows[end - 1] + 1].add_(part)
            start = end


# The rows of `Effects`, and which points stand in them.
_KINDS: Mapping[str, Callable[[Point], bool]] = {
    "input": lambda point: point.block is Block.INPUT and point.part is Part.STREAM,
    "middle": lambda point: point.block is Block.MIDDLE and point.part is Part.STREAM,
    "output": lambda point: point.block is Block.INPUT and point.part is Part.SKIP,
    "tokens": lambda point: point.block is Block.PROMPT,
}


def _in_order(tensors: Mapping[Point, Tensor]) -> tuple[Tensor | None, ...]:
    """Return tensors by the index of their points; None where there is none."""
    found = {point.index: tensor for point, tensor in tensors.items()}
    return tuple(found.get(index) for index in range(max(found, default=-1) + 1))


def _union(first: tuple[int, ...], second: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(sorted({*first, *second}))


def _constant(tensor: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda _: tensor


def summed(changes: Sequence[Callable[[Tensor], Tensor]]) -> Callable[[Tensor], Tensor]:
    """Return one function for all changes of a point, each of which sees the same."""
    if len(changes) == 1:
        return changes[0]

    def total(h: Tensor) -> Tensor:
        result = changes[0](h)
        for change in changes[1:]:
            result = result + change(h)
        return result

    return total


def _middle(index: int) -> Point:
    return Point(Block.MIDDLE, index)


def _prompt(index: int) -> Point:
    return Point(Block.PROMPT, index)
