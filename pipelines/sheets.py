"""Sheets of labelled pictures: what people look at."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]

GAP, BAND = 8, 24  # pixels between pictures, and of a label
PAPER, INK = (250, 250, 250), (40, 40, 40)
FONT, SCALE = cv2.FONT_HERSHEY_SIMPLEX, 0.45


def sheet(rows: Sequence[Sequence[tuple[str, Image]]], side: int = 192) -> Image:
    """Return rows of (label, picture [H, W, 3]) as one picture; each is drawn `side` pixels high."""
    bands = [_row(row, side) for row in rows]
    width = max(band.shape[1] for band in bands)
    return np.vstack([_widen(band, width) for band in bands])


def _row(cells: Sequence[tuple[str, Image]], side: int) -> Image:
    return np.hstack([_cell(label, picture, side) for label, picture in cells])


def _cell(label: str, picture: Image, side: int) -> Image:
    height, width = picture.shape[:2]
    shown = (max(1, round(width * side / height)), side)
    enlarged = cv2.resize(picture, shown, interpolation=cv2.INTER_AREA if height > side else cv2.INTER_NEAREST)
    cell = np.full((side + BAND + GAP, shown[0] + GAP, 3), PAPER, np.uint8)
    cell[BAND : BAND + side, GAP // 2 : GAP // 2 + shown[0]] = enlarged
    cv2.putText(cell, label, (GAP // 2, BAND - 8), FONT, SCALE, INK, 1, cv2.LINE_AA)
    return cell


def _widen(band: Image, width: int) -> Image:
    missing = width - band.shape[1]
    return np.pad(band, ((0, 0), (0, missing), (0, 0)), constant_values=PAPER[0]) if missing else band
