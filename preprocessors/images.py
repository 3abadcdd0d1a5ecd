"""Pictures from and to disk, for every edge: what comes from outside is checked here, once, before it is decoded.

Pillow reads, because it knows a picture's size, format and orientation from the header alone, refuses formats that
were not asked for, and names what is wrong; cv2 gives None for everything. All hosts have it installed.
"""

# pyright: reportUnknownMemberType=false
# numpy declares some of its methods incompletely; what they return is declared here instead.

from __future__ import annotations

import os
import struct
import uuid
import warnings
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ..core.errors import HintError
from .declaration import MAX_PIXELS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image as PillowImage
    from PIL import ImageOps as PillowOps
    from PIL import PngImagePlugin

    Image = NDArray[np.uint8]
    Mask = NDArray[np.uint8]
else:
    from .lazy import PillowImage, PillowOps, PngImagePlugin, np

READS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")  # of a GIF or TIFF, the first picture
WRITES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".bmp": "BMP", ".tiff": "TIFF"}
ENCODING = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True}}  # hints are drawings: sharp edges
DAMAGED = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, struct.error, zlib.error)
TRANSPARENT = ("RGBA", "LA", "PA", "RGBa", "La")  # Pillow's modes with an alpha channel
WHITE, BLACK = 255, 0
SIXTEEN_TO_EIGHT = 257  # 65535 / 255


def read_image(path: str | os.PathLike[str]) -> Image:
    """The picture as uint8 RGB [H, W, 3], upright (EXIF), transparency on white, 16 bits scaled to 8.

    HintError if there is no such file, or it is no picture, damaged, of another format, or over `MAX_PIXELS`.
    """
    return np.array(_decode(Path(path), WHITE).convert("RGB"), np.uint8)


def read_mask(path: str | os.PathLike[str]) -> Mask:
    """The picture's brightness as uint8 [H, W], 255 = full effect; transparency on black. Errors as `read_image`."""
    return np.array(_decode(Path(path), BLACK).convert("L"), np.uint8)


def check_folder(folder: Path) -> None:
    """HintError unless the folder is there or can be made; for long work whose result will go there."""
    place = folder.absolute()
    above = next(each for each in (place, *place.parents) if each.exists())
    if not (above.is_dir() and os.access(above, os.W_OK)):
        raise HintError(f"cannot make the folder {folder}: {above} is no folder, or may not be written")


def make_folder(folder: Path) -> None:
    """The folder and those above it; HintError if it cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HintError(f"cannot make the folder {folder}: {error.strerror or error}") from error


def write_image(path: str | os.PathLike[str], image: Image | Mask, metadata: Mapping[str, str] | None = None) -> None:
    """Write uint8 [H, W, 3] or [H, W]; the suffix names the format, and `metadata` becomes the text of a PNG.

    The file appears complete or not at all. HintError if the suffix is unknown or the place cannot be written.
    """
    target = Path(path)
    kind = WRITES.get(target.suffix.lower())
    if kind is None:
        raise HintError(f"cannot write {target}: its name must end in {', '.join(WRITES)}")
    if metadata and kind != "PNG":
        raise HintError(f"cannot write {target}: only PNG files carry settings; name it {target.stem}.png")
    if image.dtype != np.uint8 or 0 in image.shape or not (image.ndim == 2 or image.shape[2:] == (3,)):
        raise HintError(f"cannot write {image.dtype} {list(image.shape)}: expected uint8 [H, W, 3] or [H, W]")
    part = target.with_name(f".{target.name}.{uuid.uuid4().hex}.part")
    try:
        _encode(part, np.ascontiguousarray(image), kind, metadata or {})
        part.replace(target)
    except (OSError, ValueError) as error:  # Pillow says ValueError for sizes that a format cannot hold
        raise HintError(f"cannot write {target}: {getattr(error, 'strerror', None) or error}") from error
    finally:
        part.unlink(missing_ok=True)  # an interrupt leaves nothing behind


def _encode(path: Path, image: Image | Mask, kind: str, metadata: Mapping[str, str]) -> None:
    options: dict[str, object] = dict(ENCODING.get(kind, {}))
    if metadata:
        options["pnginfo"] = text = PngImagePlugin.PngInfo()
        for key, value in metadata.items():
            text.add_text(key, value)
    with path.open("xb") as file:
        PillowImage.fromarray(image).save(file, format=kind, **options)
        file.flush()
        os.fsync(file.fileno())


def _decode(path: Path, background: int) -> PillowImage.Image:
    """The upright picture in one of Pillow's 8-bit modes, without transparency."""
    picture = _open(path)
    try:
        picture.load()
        upright = PillowOps.exif_transpose(picture)
    except DAMAGED as error:
        raise HintError(f"{path} is damaged or truncated ({error}): export or download it again") from error
    finally:
        picture.close()
    return _flat(_eight_bit(upright, picture.format, path), background)


def _open(path: Path) -> PillowImage.Image:
    """The header only; too many pixels are refused before any is decoded."""
    _check_file(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PillowImage.DecompressionBombWarning)  # our own, lower limit follows
            picture = PillowImage.open(path, formats=READS)
    except PillowImage.DecompressionBombError as error:
        raise HintError(f"{path} has more than {MAX_PIXELS // 10**6} megapixels: scale it down") from error
    except DAMAGED as error:
        known = ", ".join(READS)
        raise HintError(f"{path} is no picture of a known format ({known}), or its header is damaged") from error
    width, height = picture.size
    if width * height > MAX_PIXELS:
        picture.close()
        raise HintError(f"{path} is {width}x{height}, more than {MAX_PIXELS // 10**6} megapixels: scale it down")
    return picture


def _check_file(path: Path) -> None:
    try:
        if path.is_dir():
            raise HintError(f"{path} is a folder: expected one picture")
        if not path.exists():
            raise HintError(f"there is no picture {path}: check the path")
        with path.open("rb") as file:
            empty = not file.read(1)
    except OSError as error:
        raise HintError(f"cannot read {path}: {error.strerror or error}") from error
    if empty:
        raise HintError(f"{path} is empty: export or download it again")


def _eight_bit(picture: PillowImage.Image, kind: str | None, path: Path) -> PillowImage.Image:
    """Grey of 16 bits scaled to 8; Pillow itself reads 16-bit colour as 8 bits, but clips grey."""
    if picture.mode.startswith("I;16") or (picture.mode == "I" and kind == "PNG"):  # older Pillow says I
        levels = np.asarray(picture).astype(np.float64) / SIXTEEN_TO_EIGHT
        return PillowImage.fromarray(np.rint(levels).astype(np.uint8))
    if picture.mode in ("I", "F"):
        raise HintError(f"{path} has 32 bits a channel, and nobody knows its white: save it with 8 or 16 bits")
    return picture


def _flat(picture: PillowImage.Image, background: int) -> PillowImage.Image:
    """Transparency laid on a background of one grey."""
    if "transparency" not in picture.info and picture.mode not in TRANSPARENT:
        return picture
    layer = picture.convert("RGBA")
    ground = PillowImage.new("RGBA", layer.size, (background, background, background, 255))
    return PillowImage.alpha_composite(ground, layer)
