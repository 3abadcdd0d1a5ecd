"""Preprocessors that say where a picture is to be invented anew: inside a mask, or outside its borders.

Their hint carries the mask as its fourth channel, since a uint8 picture cannot say "nothing is known here"; `invented`
makes the floats of it that inpaint models were trained with.
"""

# pyright: reportUnknownMemberType=false
# numpy declares some of its methods incompletely; what they return is declared here instead.

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from ...core.errors import PreprocessorError
from ..declaration import MAX_PIXELS, Output, Parameter
from ..perform import Preprocessor
from ..resize import MASK_ON

if TYPE_CHECKING:
    import cv2
    import numpy as np
    from numpy.typing import NDArray

    from ..resize import Image
else:
    from ..lazy import cv2, np

TO_INVENT = -1.0  # what a pixel is that the model is to invent; known ones lie in 0..1 (control_v11p_sd15_inpaint)
UNDREAMT = 128  # grey of a margin that nothing is known about (ComfyUI, ImagePadForOutpaint)
WIDEST = 4096  # pixels of a margin


def invented(hint: Image) -> NDArray[np.float32]:
    """Return a hint, uint8 [..., 3 or 4], as floats [..., 3] in 0..1, with -1 in each pixel that is to be invented.

    The fourth channel says which these are: those where it is at least half (128 of 255). Without it none is.
    Source of the sign: sd-webui-controlnet's inpaint preprocessor.
    """
    pixels = np.divide(hint[..., :3], 255, dtype=np.float32)
    if hint.shape[-1] == 4:
        pixels[hint[..., 3] >= MASK_ON] = TO_INVENT
    return pixels


def _masked(image: Image, mask: Image) -> Image:
    return np.dstack([image, mask])


def _blackened(image: Image, mask: Image) -> Image:
    return np.where(mask[..., None] >= MASK_ON, np.uint8(0), image)


def _outpaint(image: Image, left: int, top: int, right: int, bottom: int, feather: int) -> Image:
    """Return the picture [H, W, 4] with grey margins; the mask is soft inside the picture where a margin joins it."""
    height, width = image.shape[:2]
    if (height + top + bottom) * (width + left + right) > MAX_PIXELS:
        raise PreprocessorError(
            f"outpaint: {width}x{height} with these margins is more than {MAX_PIXELS // 10**6} megapixels: "
            "choose smaller margins"
        )
    sides = [(top, bottom), (left, right), (0, 0)]
    mask = _feathered((height, width), (top, bottom, left, right), feather)
    padded = np.pad(image, sides, constant_values=UNDREAMT)
    return np.dstack([padded, np.pad(mask, sides[:2], constant_values=255)])


def _feathered(size: tuple[int, int], margins: tuple[int, int, int, int], feather: int) -> Image:
    """Return a mask [H, W]: 255 at a joint, falling with the square of the distance to 0 after `feather` pixels."""
    top, bottom, left, right = margins
    rows = _distance(size[0], top > 0, bottom > 0)
    columns = _distance(size[1], left > 0, right > 0)
    nearest = np.minimum(rows[:, None], columns[None])
    if 2 * feather >= min(size) or not feather:  # the feathers of two sides would meet: ComfyUI leaves them out too
        return np.zeros(size, np.uint8)
    strength = np.clip((feather - nearest) / feather, 0, 1) ** 2
    return np.rint(255 * strength).astype(np.uint8)


def _distance(length: int, first: bool, last: bool) -> NDArray[np.float64]:
    """Return the distance [length] in pixels to the nearest joint, infinite without one."""
    along = np.arange(length, dtype=np.float64)
    far = np.full(length, np.inf)
    return np.minimum(along if first else far, along[::-1] if last else far)


def _mask_only(_image: Image, mask: Image, grow: int, blur: float) -> Image:
    """Return the mask [H, W], widened and softened."""
    if grow:
        disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * grow + 1, 2 * grow + 1))
        mask = cast("Image", cv2.dilate(mask, disk))
    return cast("Image", cv2.GaussianBlur(mask, (0, 0), blur)) if blur else mask


INPAINT = Preprocessor(
    id="inpaint_global_harmonious",
    title="Inpaint (global harmonious)",
    doc="Picture and mask. The model invents the masked part and may harmonise all the rest with it.",
    run=_masked,
    output=Output.MASKED,
    aliases=("inpaint",),
    control_types=("Inpaint",),
    takes_mask=True,
    resizes=False,
)

INPAINT_ONLY = Preprocessor(
    id="inpaint_only",
    title="Inpaint only",
    doc="Picture and mask. The model invents the masked part; programs keep the rest as it was.",
    run=_masked,
    output=Output.MASKED,
    control_types=("Inpaint",),
    takes_mask=True,
    resizes=False,
)

INPAINT_BLACK = Preprocessor(
    id="inpaint_black",
    title="Inpaint (black)",
    doc="The picture with black where the mask is set, as the union and inpaint models of xinsir read it.",
    run=_blackened,
    output=Output.RGB,
    control_types=("Inpaint",),
    takes_mask=True,
    resizes=False,
)

MASK = Preprocessor(
    id="mask",
    title="Mask",
    doc="The mask itself, widened and softened on request, for models that read a mask.",
    run=_mask_only,
    output=Output.GRAY,
    polarity="white where something is to be invented",
    control_types=("Inpaint",),
    parameters=(
        Parameter(name="grow", label="Grow", default=0, minimum=0, maximum=256, step=1, unit="px",
                  doc="How far the mask is widened."),
        Parameter(name="blur", label="Blur", default=0.0, minimum=0.0, maximum=64.0, step=0.1, unit="px",
                  doc="Width of the Gaussian that softens its edge."),
    ),
    takes_mask=True,
    resizes=False,
)  # fmt: skip

OUTPAINT = Preprocessor(
    id="outpaint",
    title="Outpaint",
    doc="The picture with margins that are masked, and a mask that reaches softly into it.",
    run=_outpaint,
    output=Output.MASKED,
    control_types=("Inpaint",),
    parameters=(
        *(
            Parameter(name=side, label=side.capitalize(), default=64, minimum=0, maximum=WIDEST, step=8, unit="px",
                      doc="Width of this margin.")
            for side in ("left", "top", "right", "bottom")
        ),
        Parameter(name="feather", label="Feather", default=40, minimum=0, maximum=512, step=1, unit="px",
                  doc="How far the mask reaches into the picture."),
    ),
    resizes=False,
    grows=True,
)  # fmt: skip
