"""Preprocessors that show edges: where the picture changes abruptly, one pixel wide."""

# pyright: reportUnknownMemberType=false
# numpy declares some of its methods incompletely; what they return is declared here instead.

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from ..declaration import Output, Parameter
from ..perform import Preprocessor

if TYPE_CHECKING:
    import cv2
    import numpy as np
    from numpy.typing import NDArray

    from ..resize import Image
else:
    from ..lazy import cv2, np

PYRAMID = (0.2, 0.4, 0.6, 0.8, 1.0)  # sizes at which edges are sought (Fooocus, `pyramid_canny_color`)
FINER = 0.25  # how much each finer size counts against all coarser ones (same source)
DARKEST, BRIGHTEST = 1, 99  # percentiles that become black and white (same source)


def _canny(image: Image, low: int, high: int) -> Image:
    """Return the edges [H, W] of all channels; the strongest gradient counts, as in the maps of the training."""
    return cast("Image", cv2.Canny(image, low, high))


def _pyracanny(image: Image, low: int, high: int) -> Image:
    """Return the sum [H, W] of the edges of every channel at five sizes: structure of any size leaves a trace."""
    summed: NDArray[np.float32] | None = None
    for scale in PYRAMID:
        size = max(1, int(image.shape[1] * scale)), max(1, int(image.shape[0] * scale))
        small = cast("Image", cv2.resize(image, size, interpolation=cv2.INTER_AREA))
        edges = sum(np.asarray(cv2.Canny(each, low, high), np.float32) for each in cv2.split(small))
        if summed is None:
            summed = np.asarray(edges, np.float32)
        else:
            larger = np.asarray(cv2.resize(summed, size, interpolation=cv2.INTER_LINEAR), np.float32)
            summed = cast("NDArray[np.float32]", larger * (1 - FINER) + np.asarray(edges, np.float32) * FINER)
    assert summed is not None
    dark, bright = (float(each) for each in np.percentile(summed, (DARKEST, BRIGHTEST)))
    if bright <= dark:
        bright = dark + 1  # a picture without edges, or with hardly any: peers divide by zero here
    return (np.clip((summed - dark) / (bright - dark), 0, 1) * 255).astype(np.uint8)


def _thresholds(low: int, high: int) -> tuple[Parameter, ...]:
    return (
        Parameter(name="low", label="Low threshold", default=low, minimum=1, maximum=255, step=1,
                  doc="Weaker gradients are never an edge."),
        Parameter(name="high", label="High threshold", default=high, minimum=1, maximum=255, step=1,
                  doc="Stronger gradients always are. The larger of the two thresholds counts as the high one."),
    )  # fmt: skip


CANNY = Preprocessor(
    id="canny",
    title="Canny edges",
    doc="Hard edges by Canny's detector. Gradients above the high threshold start an edge, those above the low one "
    "continue it.",
    run=_canny,
    output=Output.BINARY,
    polarity="white on black",
    control_types=("Canny",),
    parameters=_thresholds(100, 200),
)

PYRACANNY = Preprocessor(
    id="pyracanny",
    title="Canny edges (pyramid)",
    doc="Canny's edges at five sizes together, as the control LoRAs of Stability AI and Fooocus want them.",
    run=_pyracanny,
    output=Output.GRAY,
    polarity="white on black",
    control_types=("Canny",),
    parameters=_thresholds(64, 128),
    pad=1,  # repeated edges would enter the percentiles
)
