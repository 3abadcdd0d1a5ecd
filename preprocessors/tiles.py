"""Preprocessors that show a picture with less detail, for models that add detail."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from .base import Output, Parameter, Preprocessor

if TYPE_CHECKING:
    import cv2

    from .base import Image
else:
    from .lazy import cv2

LEAST_RATE = 1.1  # smaller rates leave the picture as it is (sd-webui-controlnet, tile_resample)


def _blur(image: Image, sigma: float) -> Image:
    return cast("Image", cv2.GaussianBlur(image, (0, 0), sigma))


def _tile(image: Image, rate: float) -> Image:
    """Area down, cubic up again, so that the hint has the picture's size (the WebUI hands on the small one)."""
    if rate < LEAST_RATE:
        return image
    height, width = image.shape[:2]
    small = max(1, int(width / rate)), max(1, int(height / rate))
    shrunk = cv2.resize(image, small, interpolation=cv2.INTER_AREA)
    return cast("Image", cv2.resize(shrunk, (width, height), interpolation=cv2.INTER_CUBIC))


BLUR_GAUSSIAN = Preprocessor(
    id="blur_gaussian",
    title="Blur (Gaussian)",
    doc="The picture blurred.",
    run=_blur,
    output=Output.RGB,
    aliases=("blur",),
    control_types=("Tile",),
    parameters=(
        Parameter(name="sigma", label="Sigma", default=9.0, minimum=0.01, maximum=64.0, step=0.01, unit="px",
                  doc="Width of the Gaussian."),
    ),
)  # fmt: skip

TILE_RESAMPLE = Preprocessor(
    id="tile_resample",
    title="Tile (resample)",
    doc="The picture with its fine detail taken away by down-sampling.",
    run=_tile,
    output=Output.RGB,
    aliases=("tile",),
    control_types=("Tile",),
    parameters=(
        Parameter(name="rate", label="Down-sampling rate", default=1.0, minimum=1.0, maximum=8.0, step=0.01,
                  doc="How many times smaller the picture is in between; under 1.1 nothing happens."),
    ),
)  # fmt: skip
