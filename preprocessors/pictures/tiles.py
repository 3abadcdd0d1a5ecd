"""Preprocessors that show a picture with less detail, for models that add detail."""

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

CELL = 8  # pixels of a latent pixel
LEAST_RATE = 1.1  # smaller rates leave the picture as it is (sd-webui-controlnet, tile_resample)


def _blur(image: Image, sigma: float) -> Image:
    return cast("Image", cv2.GaussianBlur(image, (0, 0), sigma))


def _tile(image: Image, rate: float) -> Image:
    """Return the picture shrunk and enlarged again: the hint has its size (the WebUI hands on the small one)."""
    if rate < LEAST_RATE:
        return image
    height, width = image.shape[:2]
    small = max(1, int(width / rate)), max(1, int(height / rate))
    shrunk = cv2.resize(image, small, interpolation=cv2.INTER_AREA)
    return cast("Image", cv2.resize(shrunk, (width, height), interpolation=cv2.INTER_CUBIC))


def _colorfix(images: Image, **_settings: float) -> Image:
    """Return the picture itself; the settings are for what programs do with the drawn picture."""
    return images


def _box(image: NDArray[np.floating[Any]], side: int) -> NDArray[np.float32]:
    blurred = cv2.blur(image, (side, side), borderType=cv2.BORDER_REPLICATE)
    return np.asarray(blurred, np.float32)


def _guided(image: Image, scale: float, blur: float, radius: int, softness: float) -> Image:
    """Return the picture shrunk, blurred, enlarged, and smoothed along its own edges.

    Source of the filter: He, Sun, Tang: Guided image filtering, 2010; the picture is its own guide, in each channel.
    """
    small = max(1, round(image.shape[1] / scale)), max(1, round(image.shape[0] / scale))
    coarse = cv2.resize(image, small, interpolation=cv2.INTER_AREA)
    coarse = cv2.GaussianBlur(coarse, (0, 0), blur) if blur else coarse
    coarse = cv2.resize(coarse, (image.shape[1], image.shape[0]), interpolation=cv2.INTER_CUBIC)
    levels = np.asarray(coarse, np.float32) / 255
    side = 2 * radius + 1
    mean = _box(levels, side)
    variance = _box(levels * levels, side) - mean * mean
    slope = variance / (variance + softness)
    smooth = _box(slope, side) * levels + _box(mean - slope * mean, side)
    return np.rint(np.clip(smooth, 0, 1) * 255).astype(np.uint8)


def _gray(image: Image) -> Image:
    return cast("Image", cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))


VARIATION = Parameter(
    name="variation", label="Variation", default=8, minimum=3, maximum=32, step=1, unit="cells", shapes_hint=False,
    doc="Colours may differ from the original within so many cells of 8 pixels.",
)  # fmt: skip

TILE_COLORFIX = Preprocessor(
    id="tile_colorfix",
    title="Tile (color fix)",
    doc="The picture itself; after drawing, the program brings the result back to its colours.",
    run=_colorfix,
    output=Output.RGB,
    control_types=("Tile",),
    parameters=(VARIATION,),
    batchable=True,
    resizes=False,
)

TILE_COLORFIX_SHARP = Preprocessor(
    id="tile_colorfix+sharp",
    title="Tile (color fix, sharp)",
    doc="Like the color fix, with more contrast in the detail.",
    run=_colorfix,
    output=Output.RGB,
    control_types=("Tile",),
    parameters=(
        VARIATION,
        Parameter(name="sharpness", label="Sharpness", default=1.0, minimum=0.0, maximum=2.0, step=0.01,
                  shapes_hint=False, doc="How much stronger the detail becomes."),
    ),
    batchable=True,
    resizes=False,
)  # fmt: skip

TILE_GUIDED = Preprocessor(
    id="tile_guided",
    title="Tile (guided filter)",
    doc="The picture without fine texture but with its edges, for SDXL tile models.",
    run=_guided,
    output=Output.RGB,
    aliases=("TTPlanet_TileGF_Preprocessor",),
    control_types=("Tile",),
    parameters=(
        Parameter(name="scale", label="Scale", default=1.0, minimum=1.0, maximum=8.0, step=0.01,
                  doc="How many times smaller the picture is in between."),
        Parameter(name="blur", label="Blur", default=2.0, minimum=0.0, maximum=10.0, step=0.01, unit="px",
                  doc="Width of the Gaussian at that size."),
        Parameter(name="radius", label="Radius", default=7, minimum=1, maximum=20, step=1, unit="px",
                  doc="Reach of the edge-keeping filter."),
        Parameter(name="softness", label="Softness", default=0.01, minimum=0.0001, maximum=0.1, step=0.0001,
                  doc="Contrasts below its square root (of a range of 1) are smoothed away."),
    ),
    pad=1,  # the filter averages over the border
)  # fmt: skip

GRAY = Preprocessor(
    id="gray",
    title="Gray",
    doc="The picture without its colours (Rec. 601), for union models that were trained with grey hints.",
    run=_gray,
    output=Output.GRAY,
    control_types=("Recolor",),
    resizes=False,
)

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
    pad=1,  # the Gaussian averages over the border, where cv2 mirrors the picture
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
