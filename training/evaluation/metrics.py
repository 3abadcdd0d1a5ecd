"""How well a picture obeys a hint, measured without any learned model."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from ...pipelines.tiny_world import read_depth
from ..tiny.scenes import read_colours

Image = NDArray[np.uint8]

TOLERANCE = 2  # pixels by which an edge may be off


def edge_f1(found: Image, wanted: Image, tolerance: int = TOLERANCE) -> float:
    """Return the F1 score of two edge maps [H, W]; an edge counts as found within `tolerance` pixels."""
    if not found.any() or not wanted.any():
        return float(not found.any() and not wanted.any())
    kernel = np.ones((2 * tolerance + 1, 2 * tolerance + 1), np.uint8)
    near = {name: cv2.dilate(edges, kernel) > 0 for name, edges in (("found", found), ("wanted", wanted))}
    precision = float(near["wanted"][found > 0].mean())
    recall = float(near["found"][wanted > 0].mean())
    return 2 * precision * recall / max(precision + recall, 1e-9)


def depth_error(image: Image, depth: Image) -> float:
    """Return the root mean square error of the depth that a tiny-world picture [H, W, 3] shows; depth [H, W] 0..255."""
    return float(np.sqrt(np.mean(np.square(read_depth(image) - depth / 255))))


def colour_accuracy(image: Image, colours: Image) -> float:
    """Return the share of a tiny-world picture's pixels [H, W, 3] that have the colour of a map of indices [H, W]."""
    return float((read_colours(image) == colours).mean())
