"""The only code that resizes uint8 pictures: the size rule of preprocessors, and hints brought to the picture's size.

A hint is no photograph: a label map must not get new colours and a drawing must stay black and white, so the filter
follows the content (as `high_quality_resize` of sd-webui-controlnet does, which sorts all pixels to learn about it).
"""

# pyright: reportUnknownMemberType=false
# numpy declares some of its methods incompletely; what they return is declared here instead.

from __future__ import annotations

from typing import TYPE_CHECKING

from ..core.errors import HintError

if TYPE_CHECKING:
    import cv2
    import numpy as np
    from numpy.typing import NDArray

    from ..core.resize import ResizeMode

    Image = NDArray[np.uint8]
    Mask = NDArray[np.bool_]
else:
    from .lazy import cv2, np

FEW_COLOURS = 200  # fewer than these are a drawing or a label map (sd-webui-controlnet, `high_quality_resize`)
SAMPLE = 4096  # pixels looked at first; a photograph shows its many colours there, and all others are counted in full
BLACK, WHITE = 16, 240  # two greys beyond these are black and white (same source)
MASK_ON = 128  # half of the range: where a mask counts as set


def resize_image(image: Image, target: tuple[int, int], mode: ResizeMode) -> Image:
    """Bring a hint [H, W, 3], or [H, W, 4] with a mask as its fourth channel, to [*target, ...]; (height, width).

    FILL puts the median colour of the four border lines around the picture, and the mask is set there: what the
    picture does not say may be invented. The same array comes back if it has the target's size already.
    """
    from ..core.resize import ResizeMode, fit_geometry

    _check(image)
    if image.shape[:2] == target:
        return image
    place = fit_geometry((image.shape[0], image.shape[1]), target, mode)
    scaled = _scale_hint(image, place.scaled)
    if place.scaled == target:
        return scaled
    if mode is ResizeMode.CROP:
        return np.ascontiguousarray(scaled[-place.top : target[0] - place.top, -place.left : target[1] - place.left])
    canvas = np.empty((*target, image.shape[2]), np.uint8)
    canvas[...] = _border_colour(image)
    canvas[place.top : place.top + place.scaled[0], place.left : place.left + place.scaled[1]] = scaled
    return canvas


def resize_mask(mask: Image, size: tuple[int, int]) -> Image:
    """Return a mask [H, W] at `size` (height, width), hard: 255 where at least half of a pixel is set, else 0."""
    scaled = mask if mask.shape == size else _filter(np.ascontiguousarray(mask), size)
    return _levels(scaled >= MASK_ON, 0, 255)


def scaled_size(size: tuple[int, int], resolution: int) -> tuple[int, int]:
    """Return (height, width) of a picture of `size` after its short side became `resolution`; never under one pixel."""
    k = resolution / min(size)
    return max(1, round(size[0] * k)), max(1, round(size[1] * k))


def scale_photograph(image: Image, size: tuple[int, int]) -> Image:
    """Return a photograph [H, W, 3] at `size` (height, width): area down, cubic up; at its own size as it is."""
    return image if image.shape[:2] == size else _filter(image, size)


def scale_short_side(image: Image, resolution: int) -> Image:
    """Return a photograph [H, W, 3] with its short side at `resolution` pixels: area down, cubic up."""
    return _filter(image, scaled_size((image.shape[0], image.shape[1]), resolution))


def pad_to_multiple(image: Image, multiple: int) -> Image:
    """Return [H, W, C] with the right and bottom edges repeated until both sides are multiples of `multiple`."""
    bottom, right = -image.shape[0] % multiple, -image.shape[1] % multiple
    if not (bottom or right):
        return image
    return _pixels(cv2.copyMakeBorder(image, 0, bottom, 0, right, cv2.BORDER_REPLICATE))


def count_colours(image: Image, limit: int = FEW_COLOURS) -> int:
    """Return the number of colours of [H, W, 3]; once a sample shows `limit` of them, the number in that sample."""
    pixels = image.reshape(-1, 3)
    sample = len(np.unique(_packed(pixels[:: max(1, len(pixels) // SAMPLE)])))
    return sample if sample >= limit else len(_colours(pixels))


def thin(lines: Mask) -> Mask:
    """Return lines [H, W] thinned to a width of one pixel, still connected.

    Source: Zhang and Suen, A fast parallel algorithm for thinning digital patterns, 1984.
    """
    frame = np.pad(lines, 1)
    flat = frame.reshape(-1)
    width = frame.shape[1]
    around = np.array([-width, 1 - width, 1, width + 1, width, width - 1, -1, -width - 1])  # clockwise from the north
    ink = np.flatnonzero(flat)  # only these are looked at, and they are few
    before = -1
    while before != ink.size:
        before = ink.size
        for step in (0, 1):
            removable = _removable(flat[ink[:, None] + around], step)
            flat[ink[removable]] = False
            ink = ink[~removable]
    return np.ascontiguousarray(frame[1:-1, 1:-1])


def _scale_hint(image: Image, size: tuple[int, int]) -> Image:
    picture = _scale_colours(np.ascontiguousarray(image[..., :3]), size)
    if image.shape[2] == 3:
        return picture
    mask = _filter(np.ascontiguousarray(image[..., 3]), size) >= MASK_ON
    return np.dstack([picture, _levels(mask, 0, 255)])


def _scale_colours(image: Image, size: tuple[int, int]) -> Image:
    if count_colours(image) >= FEW_COLOURS:
        return _filter(image, size)
    greys = _black_and_white(image)
    if greys is None:
        return _pixels(cv2.resize(image, (size[1], size[0]), interpolation=cv2.INTER_NEAREST_EXACT))
    return gray_to_rgb(_levels(_scale_drawing(image[..., 0] == greys[1], size), *greys))


def _scale_drawing(bright: Mask, size: tuple[int, int]) -> Mask:
    """Return a drawing [H, W] at `size`; what there is less of is the ink, so black on white keeps its lines too."""
    inverted = bool(bright.mean() > 0.5)
    ink = bright ^ inverted
    scaled = _filter(_levels(ink, 0, 255), size)
    if _one_pixel_wide(ink):
        return thin(scaled > _otsu(scaled)) ^ inverted
    return (scaled >= MASK_ON) ^ inverted


def _one_pixel_wide(ink: Mask) -> bool:
    """Return whether most of the ink vanishes when an opening takes away what is thinner than three pixels."""
    opened = cv2.morphologyEx(_levels(ink, 0, 255), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    return 2 * int(np.count_nonzero(opened)) < int(np.count_nonzero(ink))


def _otsu(gray: Image) -> float:
    return cv2.threshold(gray, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)[0]


def _filter(image: Image, size: tuple[int, int]) -> Image:
    """Return the picture at `size`: area where a side shrinks, then cubic where one grows, which cv2 mixes up."""
    small = min(size[0], image.shape[0]), min(size[1], image.shape[1])
    if small != image.shape[:2]:
        image = _pixels(cv2.resize(image, (small[1], small[0]), interpolation=cv2.INTER_AREA))
    if small != size:
        image = _pixels(cv2.resize(image, (size[1], size[0]), interpolation=cv2.INTER_CUBIC))
    return image


def _black_and_white(image: Image) -> tuple[int, int] | None:
    """Return the two greys of a picture that is all black and white, else None."""
    colours = _colours(image.reshape(-1, 3))
    if len(colours) != 2:
        return None
    low, high = (int(colour) & 255 for colour in colours)
    greys = [low * 0x010101, high * 0x010101] == [int(colour) for colour in colours]
    return (low, high) if greys and low < BLACK and high > WHITE else None


def _colours(pixels: Image) -> NDArray[np.intp]:
    """Return the colours of [N, 3] as 24-bit numbers, ascending, each once; marking is far cheaper than sorting."""
    seen = np.zeros(1 << 24, np.bool_)
    seen[_packed(pixels)] = True
    return np.flatnonzero(seen)


def _packed(pixels: Image) -> NDArray[np.int32]:
    red, green, blue = (pixels[:, channel].astype(np.int32) for channel in range(3))
    return (red << 16) | (green << 8) | blue


def _border_colour(image: Image) -> Image:
    """Return the median of the four border lines in each channel (sd-webui-controlnet); a mask is set there.

    That may be a colour that no pixel has: a drawing or a label map gets the nearest one of the border instead.
    """
    border = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
    colour = np.median(border, axis=0)
    if count_colours(image[..., :3]) < FEW_COLOURS:
        distance = np.abs(border - colour)[:, :3].sum(axis=1)
        colour = border[int(distance.argmin())].copy()
    colour[3:] = 255
    return colour.astype(np.uint8)


def _removable(around: Mask, step: int) -> Mask:
    """Return which pixels with neighbours [N, 8] neither end nor carry a line; the steps look from two corners."""
    count = around.sum(axis=1)
    rises = (~around & np.roll(around, -1, axis=1)).sum(axis=1)
    north, east, south, west = (around[:, side] for side in (0, 2, 4, 6))
    if step == 0:
        open_side = ~(east & south & (north | west))
    else:
        open_side = ~(north & west & (east | south))
    return (count >= 2) & (count <= 6) & (rises == 1) & open_side


def _levels(mask: Mask, low: int, high: int) -> Image:
    return np.where(mask, np.uint8(high), np.uint8(low))


def gray_to_rgb(gray: Image, into: Image | None = None) -> Image:
    """Return [H, W] as three equal channels; `into` is an array [H, W, 3] that is to hold them."""
    return _pixels(cv2.cvtColor(gray, cv2.COLOR_GRAY2RGB, dst=into))


def _pixels(image: object) -> Image:
    """Return what cv2 gave, whose types it declares loosely: what went in as uint8 comes out as uint8."""
    return np.asarray(image, np.uint8)


def _check(image: Image) -> None:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in (3, 4) or 0 in image.shape:
        raise HintError(f"cannot resize {image.dtype} {list(image.shape)}: expected uint8 [H, W, 3] or [H, W, 4]")
