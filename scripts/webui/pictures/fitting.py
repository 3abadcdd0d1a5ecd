"""Hints brought to the picture's size exactly as sd-webui-controlnet does it, to the last pixel.

Our own resizing (`preprocessors/resize.py`) keeps drawings connected and invents no colours, but differs from it in
a few pixels, and a picture must not change because its user changed the extension. So this edge resizes as users' old
pictures were made. Source: `detectmap_proc`, `high_quality_resize` and `lvminthin` of sd-webui-controlnet; thinning by
hit-or-miss is in Gonzalez and Woods, Digital Image Processing, chapter 9.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ....core.resize import ResizeMode, fit_geometry
from ....preprocessors.resize import FEW_COLOURS, count_colours

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Image = NDArray[np.uint8]

BLACK, WHITE, HALF = 16, 240, 127  # two colours beyond the first two are a drawing
MASKED, WHOLE = 4, 255  # channels of a hint with a mask, and the mask where the model is to invent
ROUNDS = 32  # of thinning, at most

# Hit-or-miss patterns: 1 ink, 0 anything, - no ink. Each in four rotations; both of a rotation come before the next.
_EDGES = ("---/010/111", "0--/11-/010")
_TIPS = ("---/-1-/00-", "---/-1-/-00")


def fit_hint(hint: Image, target: tuple[int, int], mode: ResizeMode) -> Image:
    """Return a hint [H, W, 3], or [H, W, 4] with a mask of what to invent, at `target` (height, width).

    Those with a mask are fitted in floats, as there, and the mask covers what is added.
    """
    import numpy as np

    if hint.shape[2] == MASKED:
        return _fit_masked(hint.astype(np.float32), target, mode)
    place = fit_geometry((hint.shape[0], hint.shape[1]), target, mode)
    scaled = _scale(hint, place.scaled)
    if mode is ResizeMode.JUST_RESIZE:
        return scaled
    if mode is ResizeMode.CROP:
        return np.ascontiguousarray(scaled[-place.top :, -place.left :][: target[0], : target[1]])
    border = np.concatenate([hint[0], hint[-1], hint[:, 0], hint[:, -1]])
    canvas = np.empty((*target, 3), np.uint8)
    canvas[...] = np.median(border, axis=0).astype(np.uint8)
    canvas[place.top : place.top + scaled.shape[0], place.left : place.left + scaled.shape[1]] = scaled
    return canvas


def _fit_masked(hint: NDArray[np.float32], target: tuple[int, int], mode: ResizeMode) -> Any:
    import numpy as np

    place = fit_geometry((hint.shape[0], hint.shape[1]), target, mode)
    scaled = _scale_masked(hint, place.scaled)
    if mode is ResizeMode.JUST_RESIZE:
        return scaled
    if mode is ResizeMode.CROP:
        return np.ascontiguousarray(scaled[-place.top :, -place.left :][: target[0], : target[1]])
    border = np.concatenate([hint[0], hint[-1], hint[:, 0], hint[:, -1]])
    canvas = np.empty((*target, MASKED), np.float32)
    canvas[...] = np.median(border, axis=0)
    canvas[..., 3] = WHOLE
    canvas[place.top : place.top + scaled.shape[0], place.left : place.left + scaled.shape[1]] = scaled
    return canvas


def _scale_masked(hint: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    import cv2
    import numpy as np

    if hint.shape[:2] != size:
        few = 2 < count_colours(hint[..., :3].astype(np.uint8)) < FEW_COLOURS
        shrinks = size[0] * size[1] < hint.shape[0] * hint.shape[1]
        filtered = cv2.INTER_NEAREST if few else cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
        hint = np.asarray(cv2.resize(hint, (size[1], size[0]), interpolation=filtered), np.float32)
    mask = np.where(hint[..., 3:] > HALF, np.float32(WHOLE), np.float32(0))
    return np.concatenate([hint[..., :3], mask], axis=2)


def _scale(hint: Image, size: tuple[int, int]) -> Image:
    """Return a hint [H, W, 3] scaled: labels by nearest pixels, drawings thresholded and thinned, others filtered."""
    import cv2
    import numpy as np

    if hint.shape[:2] == size:
        return hint
    area, before = size[0] * size[1], hint.shape[0] * hint.shape[1]
    colours = count_colours(hint)
    drawing = colours == 2 and bool(hint.min() < BLACK) and bool(hint.max() > WHITE)
    few = 2 < colours < FEW_COLOURS
    filtered = cv2.INTER_NEAREST if few else cv2.INTER_AREA if area < before else cv2.INTER_CUBIC
    scaled = np.asarray(cv2.resize(hint, (size[1], size[0]), interpolation=filtered), np.uint8)
    if not drawing:
        return scaled
    grey = scaled.astype(np.float32).mean(axis=2).clip(0, 255).astype(np.uint8)
    if not _one_pixel_wide(hint):
        return _rgb(_otsu(grey))
    return _rgb(_thin(_otsu(_ridges(grey)), cut_tips=area > before))


def _one_pixel_wide(drawing: Image) -> bool:
    """Return whether an opening takes away more than half of the ink."""
    import cv2
    import numpy as np

    square = np.ones((3, 3), np.uint8)
    opened = cv2.dilate(cv2.erode(drawing, square), square)
    return 2 * int(np.count_nonzero(opened < drawing)) > int(np.count_nonzero(drawing > HALF))


def _ridges(grey: Image) -> Image:
    """Return what is the brightest of its three neighbours along any of the four directions; the rest is black."""
    import cv2
    import numpy as np

    straight, slanted = np.zeros((3, 3), np.uint8), np.eye(3, dtype=np.uint8)
    straight[1] = 1
    along = (straight, straight.T, slanted, slanted[:, ::-1])
    highest = [np.asarray(cv2.dilate(grey, np.ascontiguousarray(each))) == grey for each in along]
    return np.where(np.any(highest, axis=0), grey, 0).astype(np.uint8)


def _thin(ink: Image, *, cut_tips: bool) -> Image:
    for _ in range(ROUNDS):
        if not _wear(ink, _EDGES):
            break
    if cut_tips:
        _wear(ink, _TIPS)
    return ink


def _wear(ink: Image, patterns: tuple[str, ...]) -> bool:
    """Remove, in place, what matches any pattern, one pattern after the other; True if there was anything."""
    import cv2
    import numpy as np

    worn = False
    for kernel in _rotations(patterns):
        found = np.asarray(cv2.morphologyEx(ink, cv2.MORPH_HITMISS, kernel)) > HALF
        ink[found] = 0
        worn = worn or bool(found.any())
    return worn


def _rotations(patterns: tuple[str, ...]) -> Iterator[NDArray[np.int32]]:
    import numpy as np

    values = {"1": 1, "0": 0, "-": -1}
    kernels = [np.array([[values[sign] for sign in row] for row in text.split("/")], np.int32) for text in patterns]
    yield from (np.ascontiguousarray(np.rot90(kernel, turn)) for turn in range(4) for kernel in kernels)


def _otsu(grey: Image) -> Image:
    import cv2
    import numpy as np

    return np.asarray(cv2.threshold(grey, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)[1], np.uint8)


def _rgb(grey: Image) -> Image:
    import numpy as np

    return np.repeat(grey[..., None], 3, axis=2)
