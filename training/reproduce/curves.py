"""Curves of trainings: their figure, the step at which they have come half-way, and their largest jump."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
Curve = tuple[Sequence[int], Sequence[float]]  # steps, values between 0 and 1

WIDTH, HEIGHT, MARGIN = 640, 280, 40
COLOURS = ((30, 80, 200), (210, 90, 20), (20, 140, 70), (150, 40, 150))
FONT, SCALE = cv2.FONT_HERSHEY_SIMPLEX, 0.42
GRID = 4  # lines across


def half_way(curve: Curve) -> int:
    """Return the first step at which a curve has risen by half of what it rises at all."""
    found = reaching(curve, half_of(curve))
    assert found is not None
    return found


def half_of(curve: Curve) -> float:
    """Return the value at which a curve has risen by half of what it rises at all."""
    _, values = curve
    return (values[0] + max(values)) / 2


def reaching(curve: Curve, value: float) -> int | None:
    """Return the first step at which a curve has a value or more; None where it never does."""
    return next((step for step, each in zip(*curve, strict=True) if each >= value), None)


def largest_jump(curve: Curve) -> tuple[int, int, float]:
    """Return (from step, to step, rise) of the largest rise between two looks, as a share of the whole rise."""
    steps, values = curve
    rises = np.diff(values)
    at = int(rises.argmax())
    whole = max(values) - values[0]
    return steps[at], steps[at + 1], float(rises[at] / whole) if whole > 0 else 0.0


def draw_curves(curves: Mapping[str, Curve], across: str) -> Image:
    """Return curves as a picture, with a legend; `across` says what the horizontal axis counts."""
    canvas = np.full((HEIGHT, WIDTH, 3), 255, np.uint8)
    last = max(steps[-1] for steps, _ in curves.values()) or 1

    def place(step: float, value: float) -> tuple[int, int]:
        x = MARGIN + step / last * (WIDTH - 2 * MARGIN)
        return round(x), round(HEIGHT - MARGIN - value * (HEIGHT - 2 * MARGIN))

    for line in range(GRID + 1):
        value = line / GRID
        cv2.line(canvas, place(0, value), place(last, value), (225, 225, 225), 1)
        cv2.putText(canvas, f"{value:.2f}", (4, place(0, value)[1] + 4), FONT, SCALE, (90, 90, 90), 1, cv2.LINE_AA)
    cv2.putText(canvas, f"0 to {last} {across}", (MARGIN, HEIGHT - 12), FONT, SCALE, (90, 90, 90), 1, cv2.LINE_AA)
    for index, (name, (steps, values)) in enumerate(curves.items()):
        points = np.array([place(step, value) for step, value in zip(steps, values, strict=True)], np.int32)
        cv2.polylines(canvas, [points], False, COLOURS[index], 2, cv2.LINE_AA)
        cv2.putText(canvas, name, (MARGIN + 8 + index * 190, 22), FONT, SCALE + 0.08, COLOURS[index], 1, cv2.LINE_AA)
    return canvas
