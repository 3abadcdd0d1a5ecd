"""Preprocessors that show lines: white strokes on black, as if somebody had drawn the picture."""

# pyright: reportUnknownMemberType=false
# numpy declares some of its methods incompletely; what they return is declared here instead.

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from ..declaration import Output, Parameter
from ..perform import Preprocessor

if TYPE_CHECKING:
    import cv2
    import numpy as np
    from numpy.typing import NDArray

    from ..resize import Image
else:
    from ..lazy import cv2, np

XDOG_NARROW, XDOG_WIDE = 0.5, 5.0  # pixels; the two Gaussians of sd-webui-controlnet's scribble_xdog
LINEART_FLOOR = 16.0  # levels; fainter typical strokes are not amplified further (controlnet-aux, LineartStandard)
LINEART_WHITE = 127.0  # level that a typical stroke gets (same source)
OTSU = (0, 255)  # thresholds that mean "choose one" (the binary annotator of ControlNet 1.1)


def lineart_standard(image: Image, sigma: float, threshold: int) -> Image:
    """Return how much darker each pixel is than its surroundings, [H, W]; the median stroke becomes middle grey."""
    darker = np.clip(_shortfall(image, None, sigma), 0, 255)
    strokes = darker[darker > threshold]
    typical = float(np.median(strokes)) if strokes.size else 0.0
    darker *= LINEART_WHITE / max(LINEART_FLOOR, typical)
    return np.clip(darker, 0, 255).astype(np.uint8)


def _threshold(image: Image, threshold: int) -> Image:
    return cast("Image", cv2.threshold(_darkest(image), threshold, 255, cv2.THRESH_BINARY)[1])


def _binary(image: Image, threshold: int) -> Image:
    """Return dark ink as white, [H, W]. Source: Otsu, A threshold selection method from gray-level histograms, 1979."""
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    method = cv2.THRESH_BINARY_INV + (cv2.THRESH_OTSU if threshold in OTSU else 0)
    return cast("Image", cv2.threshold(gray, threshold, 255, method)[1])


def _scribble_xdog(image: Image, threshold: int) -> Image:
    """Return white [H, W] where the surroundings outshine the pixel by more than half the threshold.

    Peers compute `2 * (255 - dog) > threshold` in uint8, which wraps: their strongest strokes, from 128 levels on, are
    missing. The comparison in float has no such limit and gives the same picture elsewhere.
    """
    shortfall = _shortfall(image, XDOG_NARROW, XDOG_WIDE)
    return np.where(shortfall > threshold // 2, np.uint8(255), np.uint8(0))


def _shortfall(image: Image, narrow: float | None, wide: float) -> NDArray[np.float32]:
    """Return by how many levels a pixel lies under its surroundings, [H, W], in the channel where it does so least."""
    levels = image.astype(np.float32)
    pixel = levels if narrow is None else cv2.GaussianBlur(levels, (0, 0), narrow)
    return _darkest(cv2.subtract(cv2.GaussianBlur(levels, (0, 0), wide), pixel))


def _darkest(image: NDArray[Any]) -> Any:
    """Return the smallest of the three channels, [H, W]; cv2 does it many times faster than numpy's `min(axis=2)`."""
    red, green, blue = cast("list[NDArray[Any]]", cv2.split(image))
    return cv2.min(cv2.min(red, green), blue)


THRESHOLD = Preprocessor(
    id="threshold",
    title="Threshold",
    doc="White where all three channels are brighter than the threshold, black elsewhere.",
    run=_threshold,
    output=Output.BINARY,
    control_types=("Scribble",),
    parameters=(
        Parameter(name="threshold", label="Binarization threshold", default=127, minimum=0, maximum=255, step=1,
                  doc="Level above which a pixel is white."),
    ),
)  # fmt: skip

BINARY = Preprocessor(
    id="binary",
    title="Binary",
    doc="White where the picture is dark: a drawing on paper becomes white lines on black. 0 and 255 choose the "
    "threshold by Otsu's method.",
    run=_binary,
    output=Output.BINARY,
    polarity="white on black",
    aliases=("scribble_hand_drawn",),
    control_types=("Scribble",),
    parameters=(
        Parameter(name="threshold", label="Binary threshold", default=100, minimum=0, maximum=255, step=1,
                  doc="Up to this level of grey a pixel is ink; 0 or 255 finds the level itself."),
    ),
    pad=1,  # repeated edges would enter the histogram
)  # fmt: skip

SCRIBBLE_XDOG = Preprocessor(
    id="scribble_xdog",
    title="Scribble (XDoG)",
    doc="Bold strokes like a felt pen's, by a difference of two Gaussians.",
    run=_scribble_xdog,
    output=Output.BINARY,
    polarity="white on black",
    control_types=("Scribble", "SparseCtrl"),
    parameters=(
        Parameter(name="threshold", label="XDoG threshold", default=32, minimum=1, maximum=64, step=1,
                  doc="Higher draws fewer strokes."),
    ),
)  # fmt: skip

LINEART_STANDARD = Preprocessor(
    id="lineart_standard",
    title="Line art (standard)",
    doc="Fine grey lines from a drawing or a photograph with dark contours, without a network.",
    run=lineart_standard,
    output=Output.GRAY,
    polarity="white on black",
    aliases=("lineart_standard (from white bg & black line)", "standard_lineart"),
    control_types=("Lineart",),
    parameters=(
        Parameter(name="sigma", label="Sigma", default=6.0, minimum=0.1, maximum=64.0, step=0.1, unit="px",
                  doc="How far the surroundings of a pixel reach."),
        Parameter(name="threshold", label="Stroke threshold", default=8, minimum=0, maximum=255, step=1,
                  doc="Fainter strokes do not count for the typical one."),
    ),
    pad=1,  # repeated edges would enter the median
)  # fmt: skip
