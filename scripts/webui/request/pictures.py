"""Pictures as clients and the page send them -> uint8 RGBA arrays; the fourth channel is the drawn mask, 255 = drawn.

All forms of sd-webui-controlnet are read: base64 text with or without a data URL, arrays, {"image", "mask"},
[image, mask], a list of such dictionaries; and [image], as its first API had it. One is not, on purpose: a text is
never opened as a path, since any caller of the API could then read files of the server.
"""

from __future__ import annotations

import base64
import binascii
import io
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from ....core.errors import HintError
from ....preprocessors.declaration import MAX_PIXELS
from ....preprocessors.images import DAMAGED, READS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Image = NDArray[np.uint8]

WHITE = 255
EMPTY, FULL = 5, 250  # a mask below or above these everywhere is no drawing (sd-webui-controlnet)
_DATA_URL = re.compile(r"data:[\w/+.-]*;base64,")


def rgba_pictures(image: object, mask: object = None) -> list[Image] | None:
    """The pictures of a unit, each [H, W, 4] of its own size; None where there is none. HintError for what is none."""
    if image is None:
        return None
    pairs = _pairs(image, mask)
    return [_with_mask(read_picture(each), None if drawn is None else read_picture(drawn)) for each, drawn in pairs]


def read_picture(value: object) -> Image:
    """One picture as uint8 RGB [H, W, 3]; transparency lies on white."""
    import numpy as np

    if isinstance(value, str):
        return _decode(value)
    if hasattr(value, "convert"):  # a Pillow image
        return _flat(value)
    if isinstance(value, np.ndarray):
        return _from_array(cast("NDArray[Any]", value))
    raise HintError(f"a picture is {type(value).__name__}, expected base64 text or an array")


def read_mask(value: object) -> Image:
    """One mask as uint8 [H, W], its first channel, as sd-webui-controlnet takes it."""
    return read_picture(value)[..., 0]


def input_of(picture: Image, ignore_mask: bool = False) -> Image:
    """What a preprocessor gets of [H, W, 4]: the picture, or the drawing on it if somebody drew (scribbles)."""
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
    if image is None:
        raise HintError(f"image is an object with {', '.join(given) or 'nothing'}, expected one with image and mask")
    return image, given.get("mask")


def _with_mask(image: Image, mask: Image | None) -> Image:
    import numpy as np

    drawn = np.zeros_like(image[..., :1]) if mask is None else mask[..., :1]
    if image.shape[:2] != drawn.shape[:2]:
        sizes = " and ".join(f"{each.shape[1]}x{each.shape[0]}" for each in (image, drawn))
        raise HintError(f"image and mask are {sizes}: give them the same size")
    return np.concatenate([image, drawn], axis=2)


def _decode(text: str) -> Image:
    from PIL import Image as Pillow
    from PIL import ImageOps

    try:
        data = base64.b64decode(_DATA_URL.sub("", text, count=1), validate=True)
    except (binascii.Error, ValueError):
        raise HintError(
            f"the picture '{text[:40]}' is no base64 text: send the picture's bytes; paths and addresses are not opened"
        ) from None
    try:
        picture = Pillow.open(io.BytesIO(data), formats=READS)
        if picture.width * picture.height > MAX_PIXELS:
            raise HintError(f"a picture is {picture.width}x{picture.height}: over {MAX_PIXELS // 10**6} megapixels")
        picture.load()
        return _flat(ImageOps.exif_transpose(picture))
    except (*DAMAGED, Pillow.DecompressionBombError) as error:
        known = ", ".join(READS)
        raise HintError(f"a picture is damaged, or of no known format ({known}): {error}") from error


def _flat(picture: Any) -> Image:
    """A Pillow image as RGB, transparency on white."""
    import numpy as np
    from PIL import Image as Pillow

    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        layer = picture.convert("RGBA")
        ground = Pillow.new("RGBA", layer.size, (WHITE, WHITE, WHITE, 255))
        picture = Pillow.alpha_composite(ground, layer)
    return np.array(picture.convert("RGB"), np.uint8)


def _from_array(array: NDArray[Any]) -> Image:
    import numpy as np

    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or 0 in array.shape or array.dtype != np.uint8:
        raise HintError(
            f"a picture is {array.dtype} {list(array.shape)}, expected uint8 [H, W], [H, W, 3] or [H, W, 4]"
        )
    if array.shape[2] == 4:
        alpha = array[..., 3:].astype(np.float32) / 255
        return np.clip(array[..., :3] * alpha + WHITE * (1 - alpha), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(np.repeat(array, 3, axis=2) if array.shape[2] == 1 else array)
