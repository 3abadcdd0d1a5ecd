"""Preprocessors that show edges: where the picture changes abruptly, one pixel wide."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from .base import Output, Parameter, Preprocessor

if TYPE_CHECKING:
    import cv2

    from .base import Image
else:
    from .lazy import cv2


def _canny(image: Image, low: int, high: int) -> Image:
    """All three channels go in, and the strongest gradient counts: the training maps were made so."""
    return cast("Image", cv2.Canny(image, low, high))


CANNY = Preprocessor(
    id="canny",
    title="Canny edges",
    doc="Hard edges by Canny's detector. Gradients above the high threshold start an edge, those above the low one "
    "continue it.",
    run=_canny,
    output=Output.BINARY,
    control_types=("Canny",),
    parameters=(
        Parameter(name="low", label="Low threshold", default=100, minimum=1, maximum=255, step=1,
                  doc="Weaker gradients are never an edge."),
        Parameter(name="high", label="High threshold", default=200, minimum=1, maximum=255, step=1,
                  doc="Stronger gradients always are."),
    ),
)  # fmt: skip
