"""Where the shipped tiny world lies, and what its models were trained on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

TINY = Path(__file__).parent / "tiny"
BASE, CONTROLS, MEMBERS, IMAGES = TINY / "base", TINY / "controls", TINY / "members", TINY / "images"
SIDE = 128  # pixels of a picture's side
CELL = 8  # pixels of a cell of the colour grid that the color control reads
CANNY_LOW, CANNY_HIGH = 50, 100  # thresholds of the edges that the canny control reads
STEPS = 20  # of DDIM, enough for its pictures
DARKEST = 0.35  # brightness of the farthest point of its pictures; near is light


def read_depth(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the depth 0..1 that a picture [..., 3] of its kind shows, by its brightest channel."""
    import numpy as np

    value = image.max(axis=-1).astype(np.float32) / 255
    return np.clip((value - DARKEST) / (1 - DARKEST), 0, 1)
