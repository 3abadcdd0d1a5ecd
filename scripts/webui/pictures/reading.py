"""Pictures as clients and the page send them -> uint8 RGBA arrays; the fourth channel is the drawn mask, 255 = drawn.

All forms of sd-webui-controlnet are read: base64 text with or without a data URL, arrays, {"image", "mask"},
[image, mask], a list of such dictionaries; and [image], as its first API had it. An empty text stands for no picture.
One form is not read, on purpose: a text is never opened as a path, since any caller of the API could then read files
of the server.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from ....core.errors import HintError
from ....preprocessors.images import convert_image, decode_image
from ....units.encoded import ADVICE, bytes_of, named

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Image = NDArray[np.uint8]

EMPTY, FULL = 5, 250  # a mask below or above these everywhere is no drawing (sd-webui-controlnet)


def count_pictures(image: object, mask: object = None) -> int:
    """Return how many pictures a unit has, without reading them."""
    return 0 if is_empty(image) else len(_pairs(image, mask))


def rgba_pictures(image: object, mask: object = None) -> list[Image] | None:
    """Return the pictures of a unit, each uint8 [H, W, 4] of its own size; None where there is none.

    HintError for what is no picture.
    """
    if is_empty(image):
        return None
    pairs = _pairs(image, mask)
    return [
        _with_mask(read_picture(each), None if is_empty(drawn) else read_picture(drawn, "a mask"))
        for each, drawn in pairs
    ]


def read_picture(value: object, name: str = "a picture") -> Image:
    """Return one picture as uint8 RGB [H, W, 3]; transparency lies on white. name: what messages call it."""
    import numpy as np

    if isinstance(value, str):
        return _decode(value, name)
    if hasattr(value, "convert") or isinstance(value, np.ndarray):  # a Pillow image, or an array
        return convert_image(cast("Any", value), name)
    raise HintError(f"{name} is {type(value).__name__}, expected base64 text or an array")


def read_mask(value: object) -> Image:
    """Return one mask as uint8 [H, W], its first channel, as sd-webui-controlnet takes it."""
    return read_picture(value, "a mask")[..., 0]


def is_empty(value: object) -> bool:
    """Return whether a field holds no picture: nothing, or a text without a letter, as other fields are left empty."""
    return value is None or (isinstance(value, str) and not value.strip())


def input_of(picture: Image, ignore_mask: bool = False) -> Image:
    """Return what a preprocessor gets of [H, W, 4]: the picture, or the drawing on it if somebody drew (scribbles)."""
    import numpy as np

    drawn = picture[..., 3]
    if ignore_mask or bool((drawn <= EMPTY).all()) or bool((drawn >= FULL).all()):
        return np.ascontiguousarray(picture[..., :3])
    return np.repeat(drawn[..., None], 3, axis=2)


def _pairs(image: object, mask: object) -> list[tuple[object, object]]:
    if isinstance(image, Mapping):
        return [_pair(cast("Mapping[str, object]", image))]
    if isinstance(image, Sequence) and not isinstance(image, (str, bytes)):
        parts = list(cast("Sequence[object]", image))
        if parts and all(isinstance(part, Mapping) for part in parts):
            return [_pair(cast("Mapping[str, object]", part)) for part in parts]
        if len(parts) in (1, 2) and not isinstance(parts[0], (Mapping, list, tuple)):
            return [(parts[0], parts[1] if len(parts) == 2 else mask)]
        raise HintError(
            f"image is a list of {len(parts)}, expected [image], [image, mask] or a list of objects with image and mask"
        )
    return [(image, mask)]


def _pair(given: Mapping[str, object]) -> tuple[object, object]:
    image = given.get("image", given.get("background"))
    if is_empty(image):
        raise HintError(
            f"image is an object with {', '.join(map(str, given)) or 'nothing'}, expected one with a picture as image "
            "and perhaps a mask"
        )
    return image, given.get("mask")


def _with_mask(image: Image, mask: Image | None) -> Image:
    import numpy as np

    drawn = np.zeros_like(image[..., :1]) if mask is None else mask[..., :1]
    if image.shape[:2] != drawn.shape[:2]:
        sizes = " and ".join(f"{each.shape[1]}x{each.shape[0]}" for each in (image, drawn))
        raise HintError(f"image and mask are {sizes}: give them the same size")
    return np.concatenate([image, drawn], axis=2)


def _decode(text: str, name: str) -> Image:
    """Return the picture of base64 text, in any of its usual forms; HintError if it is none."""
    return decode_image(bytes_of(text, name), named(text, name), ADVICE)
