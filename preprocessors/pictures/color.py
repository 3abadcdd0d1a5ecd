"""Preprocessors that show where colours and brightness are, and little else."""

# pyright: reportUnknownMemberType=false
# numpy declares some of its methods incompletely; what they return is declared here instead.

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from ...core.errors import PreprocessorError
from ..declaration import Output, Parameter
from ..perform import Preprocessor
from ..resize import pad_to_multiple

if TYPE_CHECKING:
    import cv2
    import numpy as np
    from numpy.typing import NDArray

    from ..resize import Image
else:
    from ..lazy import cv2, np

SHUFFLE_SWIRL = 256  # pixels from one random displacement to the next (ControlNet 1.1, ContentShuffle)
REMAP_LIMIT = 32767  # pixels; cv2.remap counts in 16 bits


def _color_grid(image: Image, cell: int) -> Image:
    """Return the picture shrunk to a pixel a cell and enlarged again; padding first keeps every cell a full square."""
    height, width = image.shape[:2]
    padded = pad_to_multiple(image, cell)
    high, wide = padded.shape[0] // cell, padded.shape[1] // cell
    colours = cast("Image", cv2.resize(padded, (wide, high), interpolation=cv2.INTER_CUBIC))  # T2I-Adapter's filter
    colours = colours.reshape(high, wide, 3)
    return colours.repeat(cell, axis=0)[:height].repeat(cell, axis=1)[:, :width]


def _luminance(image: Image, gamma: float) -> Image:
    """Return L of CIE L*a*b*, [H, W]. Peers read RGB as BGR here, so that pure blue gets 136 instead of 82."""
    lightness = cv2.split(cv2.cvtColor(image, cv2.COLOR_RGB2LAB))[0]
    return _apply_gamma(cast("Image", lightness), gamma)


def _intensity(image: Image, gamma: float) -> Image:
    """Return V of HSV, [H, W]: the largest channel."""
    red, green, blue = cv2.split(image)
    return _apply_gamma(cast("Image", cv2.max(cv2.max(red, green), blue)), gamma)


def _apply_gamma(gray: Image, gamma: float) -> Image:
    curve = np.rint(255 * (np.arange(256) / 255) ** gamma).astype(np.uint8)
    return cast("Image", cv2.LUT(gray, curve))


def _shuffle(images: Image, seed: int) -> Image:
    """Return every picture of the batch swirled by the same two smooth random maps."""
    height, width = images.shape[1:3]
    if max(height, width) >= REMAP_LIMIT:
        raise PreprocessorError(f"shuffle: {width}x{height} is too large; sides must be under {REMAP_LIMIT} pixels")
    random = np.random.default_rng(seed)
    columns = _swirl(height, width, random) * (width - 1)
    rows = _swirl(height, width, random) * (height - 1)
    return np.stack([cast("Image", cv2.remap(image, columns, rows, cv2.INTER_LINEAR)) for image in images])


def _swirl(height: int, width: int, random: np.random.Generator) -> NDArray[np.float32]:
    """Return smooth noise [H, W] from 0 to 1.

    Random points `SHUFFLE_SWIRL` pixels apart, interpolated cubically. Interpolating is linear, so two small matrices
    do it, where peers resize a picture of (H + 512) x (W + 512) and cut it.
    """
    high, wide = height // SHUFFLE_SWIRL + 2, width // SHUFFLE_SWIRL + 2
    points = random.uniform(0, 1, (high, wide))
    noise = cast("NDArray[np.float64]", _interpolation(height, high) @ points @ _interpolation(width, wide).T)
    lowest, highest = float(noise.min()), float(noise.max())
    return ((noise - lowest) / ((highest - lowest) or 1.0)).astype(np.float32)


def _interpolation(length: int, points: int) -> NDArray[np.float64]:
    """Return the cubic weights [length, points] of the points for every pixel, one swirl away from both ends."""
    around = length + 2 * SHUFFLE_SWIRL
    weights = cv2.resize(np.eye(points), (points, around), interpolation=cv2.INTER_CUBIC)
    return np.asarray(weights, np.float64)[SHUFFLE_SWIRL : SHUFFLE_SWIRL + length]


GAMMA = Parameter(
    name="gamma", label="Gamma correction", default=1.0, minimum=0.1, maximum=2.0, step=0.001,
    doc="Below 1 brightens, above 1 darkens.",
)  # fmt: skip

RECOLOR_LUMINANCE = Preprocessor(
    id="recolor_luminance",
    title="Recolor (luminance)",
    doc="Perceived lightness, L of CIE LAB, for a model that gives a grey picture new colours.",
    run=_luminance,
    output=Output.GRAY,
    control_types=("Recolor",),
    parameters=(GAMMA,),
)

RECOLOR_INTENSITY = Preprocessor(
    id="recolor_intensity",
    title="Recolor (intensity)",
    doc="The brightest channel, V of HSV, for a model that gives a grey picture new colours.",
    run=_intensity,
    output=Output.GRAY,
    control_types=("Recolor",),
    parameters=(GAMMA,),
)

COLOR_GRID = Preprocessor(
    id="color_grid",
    title="Color grid",
    doc="Coarse squares of colour: 8 x 8 of them at a resolution of 512.",
    run=_color_grid,
    output=Output.RGB,
    aliases=("t2ia_color_grid", "color"),
    control_types=("T2I-Adapter",),
    parameters=(
        Parameter(name="cell", label="Cell", default=64, minimum=2, maximum=256, step=1, unit="px",
                  doc="Side of a square."),
    ),
)  # fmt: skip

SHUFFLE = Preprocessor(
    id="shuffle",
    title="Shuffle",
    doc="The picture swirled until its content is gone and its colours and textures are left. 0 is a seed like any "
    "other.",
    run=_shuffle,
    output=Output.RGB,
    control_types=("Shuffle",),
    deterministic=False,
    batchable=True,
    pad=1,  # repeated edges would be swirled in
)
