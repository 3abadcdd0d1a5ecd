"""A small picture of weights over a run, for nodes that people would rather look at than read."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

Curve = Sequence[tuple[float, float]]  # (place 0..1, weight)

WIDTH, HEIGHT, MARGIN = 384, 160, 28  # pixels
PAPER, GRID = (250, 250, 250), (225, 225, 225)
INKS = ((200, 60, 60), (50, 100, 200), (40, 150, 80), (190, 120, 20), (130, 70, 180), (60, 60, 60))
DASH = 3  # pixels of a drawn line


def plot(curves: Sequence[tuple[str, Curve]]) -> Tensor:
    """Draw named curves as IMAGE [1, H, W, 3] in 0..1: one panel for all, a colour each, names on top."""
    import cv2

    names = [name for name, _ in curves]
    canvas = np.full((HEIGHT + 16 * len(names), WIDTH, 3), PAPER, np.uint8)
    top = 16 * len(names) + MARGIN // 2
    bottom, left, right = canvas.shape[0] - MARGIN, MARGIN, WIDTH - MARGIN // 2
    highest = max([1.0, *(weight for _, curve in curves for _, weight in curve)])
    for share in (0.0, 0.5, 1.0):
        y = round(bottom - share * (bottom - top))
        cv2.line(canvas, (left, y), (right, y), GRID, 1)
        _write(canvas, f"{share * highest:g}", (2, y + 4))
        _write(canvas, f"{share:g}", (round(left + share * (right - left)) - 6, bottom + 16))
    for number, (name, curve) in enumerate(curves):
        ink = INKS[number % len(INKS)]
        _write(canvas, name, (left, 14 + 16 * number), ink)
        points = [(left + x * (right - left), bottom - y / highest * (bottom - top)) for x, y in curve]
        if points:
            cv2.polylines(canvas, [np.array(points).round().astype(np.int32)], False, ink, DASH - 1, cv2.LINE_AA)
    return torch.from_numpy(canvas).float()[None] / 255


def _write(canvas: np.ndarray, text: str, place: tuple[int, int], ink: tuple[int, int, int] = (90, 90, 90)) -> None:
    import cv2

    cv2.putText(canvas, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.38, ink, 1, cv2.LINE_AA)
