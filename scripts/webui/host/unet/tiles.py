"""Extensions that draw a picture in tiles cut the hint that they find to each tile. What they find is a map of places.

The interface is sd-webui-controlnet's: its script has a `latest_network` with `control_params`, each of which has a
`hint_cond`, a tensor in pixels. Tiled Diffusion reads it once, cuts all tiles out of it, and puts the present ones back
before each evaluation of the U-Net. Here one map, whose pixels say where they are, stands for the hints of all units:
what comes back names the tiles, so hints, masks and pictures of any number are cut exactly, and no other extension is
changed or known by name. Likewise for an extension that draws a few pictures of the batch at a time, as AnimateDiff
does with the frames of a long film: `hr_hint_cond` stands for the rows that the denoiser hands to its network, and what
comes back are the numbers of those that are drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from .....core.errors import HostError
from .....core.network.base import LATENT
from .....core.network.effects import Effects, Vector
from .....core.step import Window
from ..foreign import ControlModelType

REFUSED = (
    "another extension gives units a control image of its own for {}, and they take only parts of what they gave out: "
    "switch that extension or the units off"
)


class Mark(Tensor):
    """Stands for a hint. It stays on the CPU whatever device is asked for, so that reading it never waits for one."""

    def to(self, *_args: Any, **_kwargs: Any) -> Mark:  # type: ignore[override]
        return self


class PlaceMap(Mark):
    """[N, 2, H, W] in pixels: the row and the column of each one's latent pixel; cutting and joining keep the class."""


class RowNumbers(Mark):
    """[N]: the number of each row of the batch."""


class Tiles:
    """`latest_network` of one request; canvas: height and width of its picture in latent pixels, as they are now."""

    def __init__(self, canvas: Callable[[], tuple[int, int]]) -> None:
        self.control_params = [Shown(canvas)]  # a list, which others keep

    def forget(self) -> None:
        """Take the next evaluation to show the whole picture, unless somebody says otherwise."""
        self.control_params[0].windows = ()
        self.expect(0)

    def expect(self, rows: int) -> None:
        """Learn that the denoiser gives so many rows to its network, which may see a few of them at a time."""
        self.control_params[0].expected, self.control_params[0].rows = rows, None

    def rows(self, count: int) -> tuple[int, ...]:
        """Return which of the denoiser's rows the next evaluation of `count` has; () if nobody has named them."""
        rows = self.control_params[0].rows
        return tuple(rows.tolist()) if rows is not None and len(rows) == count else ()

    def windows(self, canvas: tuple[int, int], size: tuple[int, int]) -> tuple[Window, ...]:
        """Return the parts that the next evaluation of `size` shows, one block of rows each; () if nobody named any."""
        shown = self.control_params[0]
        return shown.windows if shown.canvas == canvas and shown.size == size else ()


class Shown:
    """An entry of `control_params`. `hint_cond` always reads as the map of the whole picture."""

    control_model_type = ControlModelType.ControlNet

    def __init__(self, canvas: Callable[[], tuple[int, int]]) -> None:
        self.canvas = self.size = (0, 0)
        self.windows: tuple[Window, ...] = ()
        self.expected = 0
        self.rows: RowNumbers | None = None
        self._measure = canvas
        self._map: PlaceMap | None = None

    @property
    def hint_cond(self) -> Tensor:
        """Return the map, [1, 2, height, width] in pixels; it is made when somebody asks for it."""
        canvas = self._measure()
        if self._map is None or canvas != self.canvas:
            self.canvas, self._map = canvas, place_map(canvas)
        return self._map

    @hint_cond.setter
    def hint_cond(self, tiles: Tensor) -> None:
        if not isinstance(tiles, PlaceMap):
            raise HostError(REFUSED.format("a part of the picture (hint_cond)"))
        self.size, self.windows = windows_of(tiles, self.canvas)

    @property
    def hr_hint_cond(self) -> Tensor:
        """Return the numbers of the rows, [N], those that were put here or all (hires hints in sd-webui-controlnet)."""
        return torch.arange(self.expected).as_subclass(RowNumbers) if self.rows is None else self.rows

    @hr_hint_cond.setter
    def hr_hint_cond(self, rows: Tensor) -> None:
        if not isinstance(rows, RowNumbers):
            raise HostError(REFUSED.format("the hires pass (hr_hint_cond)"))
        self.rows = rows


def place_map(canvas: tuple[int, int]) -> PlaceMap:
    """Return the map of a picture of `canvas` latent pixels."""
    rows, columns = (torch.arange(side, dtype=torch.int16).repeat_interleave(LATENT) for side in canvas)
    return torch.stack(torch.meshgrid(rows, columns, indexing="ij"))[None].as_subclass(PlaceMap)


def windows_of(tiles: Tensor, canvas: tuple[int, int]) -> tuple[tuple[int, int], tuple[Window, ...]]:
    """Return size and places, without repeats, of what was cut from the map of `canvas`. HostError if it was scaled."""
    size = (tiles.shape[-2] // LATENT, tiles.shape[-1] // LATENT)
    corners = tiles[:, :, [0, -1], [0, -1]].tolist()  # [N][row, column][first, last]
    expected = [size[0] - 1, size[1] - 1]
    if any([last - first for first, last in tile] != expected for tile in corners):
        raise HostError(
            "another extension scales the control images that it cuts into tiles, and units know only cut ones: switch "
            "that extension or the units off"
        )
    places = dict.fromkeys((tile[0][0], tile[1][0]) for tile in corners)
    return size, tuple(Window(canvas, top, left) for top, left in places) if size != canvas else ()


def cut(latents: Tensor, windows: Sequence[Window], like: Tensor) -> Tensor:
    """Return what the rows of `like` [B, ..., h, w] show of latents [1, C, H, W]; all of them without windows."""
    if not windows:
        return latents
    height, width, rows = like.shape[-2], like.shape[-1], len(like) // len(windows)
    parts = [latents[..., each.top : each.top + height, each.left : each.left + width] for each in windows]
    return torch.cat([part.expand(rows, -1, -1, -1) for part in parts])


def block_of(given: Effects | None, number: int, rows: int) -> Effects | None:
    """Return what other controls add to block `number` of so many rows, [rows, ...], of what they add to all rows."""
    if given is None:
        return None
    start = number * rows
    places = (given.input, given.middle, given.output, given.tokens)
    parts = (tuple(_part(each, start, rows) for each in place) for place in places)
    vector = None if given.vector is None else _vector_of(given.vector, range(start, start + rows))
    return replace(Effects(*parts), vector=vector)  # pyright: ignore[reportArgumentType]


def joined(blocks: Sequence[Effects]) -> Effects:
    """Return the effects on equally large blocks of rows, on which the same units act, as those on all rows."""
    if len(blocks) == 1:
        return blocks[0]
    shifts = {point: _shift_of([each.shifts[point] for each in blocks]) for point in blocks[0].shifts}
    return Effects(
        input=_cats([each.input for each in blocks]),
        middle=_cats([each.middle for each in blocks]),
        output=_cats([each.output for each in blocks]),
        tokens=_cats([each.tokens for each in blocks]),
        vector=_joined_vectors([each.vector for each in blocks if each.vector is not None]),
        shifts=shifts,
    )


def _shift_of(parts: Sequence[Callable[[Tensor], Tensor]]) -> Callable[[Tensor], Tensor]:
    """Return one shift of all rows: each block of rows has its own."""

    def shift(h: Tensor) -> Tensor:
        return torch.cat([change(rows) for change, rows in zip(parts, h.chunk(len(parts)), strict=True)])

    return shift


def _vector_of(vector: Vector, rows: range) -> Vector:
    """Return what stands in place of the pooled prompt on these rows, counted from the first of them."""
    known, silent = (tuple(row - rows.start for row in each if row in rows) for each in (vector.rows, vector.silent))
    return Vector(vector.values[rows.start : rows.stop], known, silent)


def _joined_vectors(parts: Sequence[Vector]) -> Vector | None:
    """Return what stands in place of the pooled prompt on all rows, of equally large blocks of rows."""
    if not parts:
        return None
    count = len(parts[0].values)
    return Vector(
        torch.cat([part.values for part in parts]),
        tuple(number * count + row for number, part in enumerate(parts) for row in part.rows),
        tuple(number * count + row for number, part in enumerate(parts) for row in part.silent),
    )


def _part(tensor: Tensor | None, start: int, rows: int) -> Tensor | None:
    if tensor is None:
        return None
    return tensor.expand(rows, *tensor.shape[1:]) if len(tensor) == 1 else tensor[start : start + rows]


def _cats(places: Sequence[tuple[Tensor | None, ...]]) -> tuple[Tensor | None, ...]:
    return tuple(map(_cat, zip(*places, strict=True)))


def _cat(tensors: tuple[Tensor | None, ...]) -> Tensor | None:
    present = [each for each in tensors if each is not None]
    return torch.cat(present) if present else None
