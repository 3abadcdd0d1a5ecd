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
from typing import Any

import torch
from torch import Tensor

from .....core.errors import HostError
from .....core.network.base import LATENT
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
