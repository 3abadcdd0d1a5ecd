"""The losses of a training as numbers (CSV) and as a picture, both written while it runs."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np

from ...core.errors import HostError
from ...core.wording import counted
from ...preprocessors.images import write_image

WINDOW = 100  # steps over which the shown loss is averaged
SMOOTH = 10  # windows at least in a curve, so that a short training has one too
MARGIN, LINE = 30, (30, 80, 200)  # pixels, RGB
HEIGHT, WIDTH = 240, 480


class Numbers:
    """A file of comma-separated values, a row for each step. What a resumed training has beyond its state goes."""

    def __init__(self, path: Path, done: int) -> None:
        """done: how many steps are done; later rows of an earlier run are dropped."""
        self._path, self._names = path, ("step", "loss", "learning_rate")
        kept = [] if not done else _rows(path)[1 : done + 1]
        self._write([self._names, *kept], "w")

    def add(self, step: int, loss: float, rate: float) -> None:
        """Write the row of one more step."""
        self._write([(step, loss, rate)], "a")

    def _write(self, rows: Sequence[Sequence[object]], mode: str) -> None:
        try:
            with self._path.open(mode, newline="", encoding="utf-8") as file:
                csv.writer(file).writerows(rows)
        except OSError as error:
            raise HostError(f"cannot write the numbers '{self._path}': {error.strerror or error}") from error


def _rows(path: Path) -> list[list[str]]:
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def recent(losses: Sequence[float]) -> float:
    """Return the mean of the latest losses."""
    latest = losses[-WINDOW:]
    return sum(latest) / len(latest)


def write_curve(losses: Sequence[float], path: Path) -> None:
    """Write the running mean of the loss as a picture; its vertical axis is logarithmic, with both ends said."""
    window = max(1, min(WINDOW, len(losses) // SMOOTH))
    values = np.log(np.maximum(np.convolve(losses, np.ones(window) / window, mode="valid"), np.finfo(float).tiny))
    span = max(float(np.ptp(values)), 1e-6)
    x = np.linspace(MARGIN, WIDTH - MARGIN, len(values))
    y = (HEIGHT - MARGIN) - (values - values.min()) / span * (HEIGHT - 2 * MARGIN)
    canvas = np.full((HEIGHT, WIDTH, 3), 255, np.uint8)
    if len(values) == 1:
        cv2.circle(canvas, (WIDTH // 2, HEIGHT // 2), 2, LINE, -1)
    cv2.polylines(canvas, [np.stack([x, y], 1).astype(np.int32)], False, LINE, 1, cv2.LINE_AA)
    for text, place in _texts(values, len(losses)).items():
        cv2.putText(canvas, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.4, (0, 0, 0), 1, cv2.LINE_AA)
    write_image(path, canvas)


def _texts(values: np.ndarray, steps: int) -> Mapping[str, tuple[int, int]]:
    """Return what is written on a curve, and where."""
    first, last = np.exp(values[[0, -1]])
    return {
        f"{np.exp(values.max()):.4f}": (5, 20),
        f"{np.exp(values.min()):.4f}": (5, HEIGHT - 10),
        f"{counted(steps, 'step')}, loss {first:.4f} to {last:.4f}": (150, 21),
    }
