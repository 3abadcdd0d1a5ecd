"""Which picture a unit works on, brought to the part of it that is being generated.

The order is sd-webui-controlnet's: what another extension left on the request, the unit's own picture, the picture of
img2img. When img2img paints "only masked", the unit's picture is cut to the same region.
"""

# pyright: reportMissingImports=false
# The host's own modules exist only inside it.

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from ....core.errors import HintError, UnitError
from ....core.network.base import LATENT
from ....core.resize import ResizeMode
from ....models.kinds.references import REFERENCES
from ....preprocessors.images import eight_bit
from ....units.webui.fields import UnitArgs
from .reading import input_of, read_picture, rgba_pictures

if TYPE_CHECKING:
    from .reading import Image

FILM = "controlstack_film"  # attribute of a request: the present frame by unit
LATENT_UPSCALE = 3  # of img2img's resize modes: "Just resize (latent upscale)"
_IMG2IMG_MODES = (ResizeMode.JUST_RESIZE, ResizeMode.CROP, ResizeMode.FILL)


class Input(NamedTuple):
    """A picture [H, W, 3], how it is fitted to the result, and where an inpainting preprocessor is to invent [H, W]."""

    picture: Image
    resize: ResizeMode
    mask: Image | None = None


def choose(unit: UnitArgs, p: Any, index: int, ignore_mask: bool, inpaints: bool) -> Input:
    """Return the picture of unit number `index`; HintError if there is none.

    inpaints: what is drawn on the picture is a mask; otherwise it is a scribble, unless `ignore_mask` says no.
    """
    film = getattr(p, FILM, {}).get(unit.number)
    foreign = _of_unit(getattr(p, "control_net_input_image", None), index) if film is None else film
    given = rgba_pictures(foreign) if foreign is not None else rgba_pictures(unit.image, unit.mask)
    if given is not None:
        return _crop(unit, p, _own(given, unit, ignore_mask, inpaints))
    initial = [each for each in (getattr(p, "init_images", None) or []) if each is not None]
    if initial:
        picture = read_picture(initial[0])
        return _crop(unit, p, Input(picture, _img2img_mode(p), _painted(p, picture) if inpaints else None))
    raise HintError("it is on, but has no picture: give it one, or switch it off")


def seed_of(p: Any) -> int:
    """Return the seed of preprocessors that draw random numbers; as sd-webui-controlnet computes it."""
    first = p.all_seeds[0]
    seed, subseed = (int(first) if int(each) == -1 else max(int(each), 0) for each in (p.seed, p.subseed))
    return (seed + subseed) & 0xFFFFFFFF


def target_sizes(p: Any) -> tuple[tuple[int, int], tuple[int, int] | None]:
    """Return (height, width) of the first pass, and of the hires pass or None; multiples of 8, as latents are.

    Only after the request's `init` does it know the size of its hires pass.
    """
    low = _aligned(p.height, p.width)
    if not getattr(p, "enable_hr", False):
        return low, None
    if p.hr_resize_x and p.hr_resize_y:
        return low, _aligned(p.hr_resize_y, p.hr_resize_x)
    return low, _aligned(p.hr_upscale_to_y, p.hr_upscale_to_x)


def _of_unit(value: Any, index: int) -> Any:
    """Return a value for all units, or a list with one for each."""
    if isinstance(value, (list, tuple)):
        return value[index] if index < len(value) else None
    return value


def _own(pictures: list[Image], unit: UnitArgs, ignore_mask: bool, inpaints: bool) -> Input:
    if len(pictures) != 1:
        raise UnitError(f"it has {len(pictures)} pictures: give one, or set input_mode to merge")
    (picture,) = pictures
    if inpaints:
        return Input(picture[..., :3], unit.resize_mode, picture[..., 3])
    return Input(input_of(picture, ignore_mask), unit.resize_mode)


def _painted(p: Any, picture: Image) -> Image:
    """Return what img2img is to paint, for a unit that has no mask of its own."""
    import numpy as np

    mask = getattr(p, "image_mask", None)
    if mask is None:
        return np.zeros(picture.shape[:2], np.uint8)
    painted = np.array(_prepared_mask(p, mask))
    if painted.shape != picture.shape[:2]:
        sizes = " and ".join(f"{each.shape[1]}x{each.shape[0]}" for each in (picture, painted))
        raise HintError(f"img2img's picture and mask are {sizes}: give them the same size")
    return painted


def _img2img_mode(p: Any) -> ResizeMode:
    mode = int(getattr(p, "resize_mode", 0) or 0)
    return _IMG2IMG_MODES[mode] if mode < LATENT_UPSCALE else ResizeMode.JUST_RESIZE


def _crop(unit: UnitArgs, p: Any, given: Input) -> Input:
    """Return the region that img2img paints, where it paints only that; upscaling scripts always do.

    A reference shows a style and no place: it is never cut, as in sd-webui-controlnet.
    """
    mask = getattr(p, "image_mask", None)
    if mask is None or not getattr(p, "inpaint_full_res", False) or unit.module.strip().lower() in REFERENCES:
        return given
    generated = getattr(p, "extra_generation_params", {})
    upscales = any("upscale" in key.lower() and "Hires" not in key for key in generated)
    return _region(p, given, mask) if upscales or unit.inpaint_crop_input_image else given


def _region(p: Any, given: Input, mask: Any) -> Input:
    import numpy as np
    from modules import images, masking
    from PIL import Image as Pillow

    mask = _prepared_mask(p, mask)
    region = masking.get_crop_region(np.array(mask), p.inpaint_full_res_padding)
    region = masking.expand_crop_region(region, p.width, p.height, mask.width, mask.height)
    mode, fill = _IMG2IMG_MODES.index(given.resize), _IMG2IMG_MODES.index(ResizeMode.FILL)
    channels = []
    for plane in (*np.moveaxis(given.picture, 2, 0), *([] if given.mask is None else [given.mask])):
        picture = images.resize_image(mode, Pillow.fromarray(np.ascontiguousarray(plane)), mask.width, mask.height)
        picture = images.resize_image(fill, picture.crop(region), p.width, p.height)
        channels.append(np.asarray(picture.convert("RGB"))[..., 0])
    cut = np.stack(channels[:3], axis=2)
    return given._replace(picture=cut, mask=None if given.mask is None else channels[3])


def _prepared_mask(p: Any, mask: Any) -> Any:
    """Return the mask as img2img itself is going to use it: inverted and blurred if it says so."""
    import cv2
    import numpy as np
    from PIL import Image as Pillow
    from PIL import ImageOps

    mask = eight_bit(mask, "the mask of img2img").convert("L")
    if getattr(p, "inpainting_mask_invert", False):
        mask = ImageOps.invert(mask)
    levels = np.array(mask)
    for sigma, along in ((getattr(p, "mask_blur_x", 0), 0), (getattr(p, "mask_blur_y", 0), 1)):
        if sigma > 0:
            width = 2 * int(2.5 * sigma + 0.5) + 1
            levels = cv2.GaussianBlur(levels, (width, 1) if along == 0 else (1, width), sigma)
    return Pillow.fromarray(levels)


def _aligned(height: int, width: int) -> tuple[int, int]:
    return height // LATENT * LATENT, width // LATENT * LATENT
