"""Units of the WebUI's tests, and how their drawings are compared."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from webui_host import Drawing, Picture
from webui_oracle import Wanted

TOLERANCE = 1e-4  # of the answer's range
SIZE = 64
HALF = np.repeat(np.where(np.arange(SIZE) < SIZE // 2, 255, 0)[None, :, None], SIZE, 0).repeat(3, 2).astype(np.uint8)


def photograph(seed: int = 0, size: int = SIZE) -> Picture:
    """Smooth, with many colours, so that no resizing takes it for a drawing."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 6, 6, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (size, size), mode="bilinear")[0]
    return (smooth.permute(1, 2, 0) * 255).byte().numpy()


def unit(seed: int = 0, file: str = "canny", **settings: Any) -> Wanted:
    return Wanted(file=file, hints={False: photograph(seed), True: photograph(seed)}, settings=settings)


def same(first: Drawing, second: Drawing) -> bool:
    return all((a == b).all() for a, b in zip(first.pictures, second.pictures, strict=True))


def differ(first: Drawing, second: Drawing) -> float:
    """Mean difference of the first pictures, in levels of 255."""
    return float(np.abs(first.pictures[0].astype(float) - second.pictures[0]).mean())
