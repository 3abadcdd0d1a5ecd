"""Tiled upscalers cut a control's hint to each tile. A stack has many hints, so it shows them a map of places instead.

They read `cond_hint_original`, cut out the tile's part, resize it and put it back. A picture whose pixels say
where they are comes back as the answer to which part is meant, for hints of any size and number.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

WHOLE = 0.01  # of a side: a part that misses less is the whole, seen through somebody's rounding


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a picture, as shares of its sides."""

    top: float
    left: float
    bottom: float
    right: float

    def cut(self, picture: Tensor) -> Tensor:
        """Return this part of pictures [N, H, W, ...]."""
        height, width = picture.shape[1:3]
        rows = slice(round(self.top * height), max(round(self.bottom * height), round(self.top * height) + 1))
        columns = slice(round(self.left * width), max(round(self.right * width), round(self.left * width) + 1))
        return picture[:, rows, columns]


def place_map(height: int, width: int) -> Tensor:
    """Return [1, 3, height, width]: the first channel is each pixel's share of the height, the second of the width."""
    rows = (torch.arange(height) + 0.5) / height
    columns = (torch.arange(width) + 0.5) / width
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    return torch.stack([y, x, torch.zeros_like(x)])[None]


def part_of(places: Tensor) -> Part | None:
    """Return which part a map shows after it was cut and resized; None is the whole."""
    top, bottom = _ends(places[0, 0, :, 0])
    left, right = _ends(places[0, 1, 0, :])
    if max(top, left, 1 - bottom, 1 - right) < WHOLE:
        return None
    return Part(top, left, bottom, right)


def _ends(line: Tensor) -> tuple[float, float]:
    """Return the ends of a line of pixel centres; half a pixel lies beyond the first and the last."""
    first, last = float(line[0]), float(line[-1])
    half = (last - first) / max(1, len(line) - 1) / 2
    return max(0.0, first - half), min(1.0, last + half)
