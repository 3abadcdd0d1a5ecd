"""Pictures from and to disk, for every edge: what comes from outside is checked here, once, before it is decoded.

Pillow reads, because it knows a picture's size, format and orientation from the header alone, refuses formats that
were not asked for, and names what is wrong; cv2 gives None for everything. All hosts have it installed.

However a picture comes (a file, bytes, a Pillow image, an array), it is held to the same rules: at most `MAX_PIXELS`,
upright by EXIF, 16 bits scaled to 8, 32 bits refused, transparency on white (of a mask: on black).
"""

# pyright: reportUnknownMemberType=false
# numpy declares some of its methods incompletely; what they return is declared here instead.

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Generator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.errors import HintError
from ..core.files import clear_leftovers, replacing
from .opening import ADVICE, DAMAGED, check_file, check_size, open_picture, readable

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

SUFFIXES = {  # of files that hold pictures -> what they hold
    ".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".jfif": "JPEG", ".webp": "WEBP", ".bmp": "BMP", ".tif": "TIFF",
    ".tiff": "TIFF", ".gif": "GIF", ".avif": "AVIF", ".heic": "HEIF", ".heif": "HEIF",
}  # fmt: skip
WRITES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".bmp": "BMP", ".tiff": "TIFF"}
ENCODING = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True}}  # hints are drawings: sharp edges
TRANSPARENT = ("RGBA", "LA", "PA", "RGBa", "La")  # Pillow's modes with an alpha channel
WHITE, BLACK = 255, 0
ANIMATED = (".gif", ".webp", ".png", ".apng", ".tif", ".tiff", ".avif")  # of files that may hold several pictures
ORIENTATION, ON_ITS_SIDE = 0x0112, (5, 6, 7, 8)  # EXIF
SIXTEEN_TO_EIGHT = 257  # 65535 / 255


def read_image(path: str | os.PathLike[str]) -> Image:
    """Return the picture of a file as uint8 RGB [H, W, 3].

    HintError if there is no such file, or it is no picture, damaged, of another format, or over `MAX_PIXELS`.
    """
    return _read(Path(path), "RGB", WHITE)


def image_size(source: Path | bytes, name: str, *, upright: bool = True) -> tuple[int, int]:
    """Return (height, width) of an upright picture, by the header of its file alone. Errors as `read_image`.

    upright: False takes a picture as it lies in its file, which is fast; a PNG has to be decoded to tell how it lies.
    """
    if isinstance(source, Path):
        check_file(source)
    with open_picture(source if isinstance(source, Path) else io.BytesIO(source), name) as picture:
        width, height = picture.size
        if not upright:
            return height, width
        try:
            turned = picture.getexif().get(ORIENTATION, 1) in ON_ITS_SIDE
        except DAMAGED as error:
            raise HintError(f"{name} is damaged or truncated ({error}): export or download it again") from error
    return (width, height) if turned else (height, width)


def count_frames(path: str | os.PathLike[str]) -> int:
    """Return how many pictures a file holds: frames of an animation, pages of a TIFF; 1 for what is no picture.

    HintError for an animation that ends too early: its first picture may be whole.
    """
    if Path(path).suffix.lower() not in ANIMATED:
        return 1
    with ExitStack() as stack:
        try:
            picture = stack.enter_context(open_picture(Path(path), str(path)))
        except HintError:  # whoever reads it says what is wrong
            return 1
        return _count(picture, str(path))


def read_frames(path: str | os.PathLike[str]) -> Generator[Image]:
    """Yield every picture of a file, uint8 RGB [H, W, 3]. Errors as `read_image`."""
    check_file(Path(path))
    with open_picture(Path(path), str(path), whole=True) as picture:
        for number in range(_count(picture, str(path))):
            try:
                picture.seek(number)
            except DAMAGED as error:
                raise HintError(f"{path} is damaged in its picture {number + 1} ({error}): export it again") from error
            yield _decoded(picture, f"picture {number + 1} of {path}", "RGB", WHITE)


def read_mask(path: str | os.PathLike[str]) -> Mask:
    """Return the brightness of a file's picture as uint8 [H, W], 255 = full effect. Errors as `read_image`."""
    return _read(Path(path), "L", BLACK)


def decode_image(data: bytes, name: str, advice: str = ADVICE) -> Image:
    """Return the picture that the bytes of a file hold as uint8 RGB [H, W, 3]. Errors as `read_image`.

    name: what the picture is called in messages. advice: what to do, where the bytes are no picture at all.
    """
    with open_picture(io.BytesIO(data), name, advice, whole=True) as picture:
        return _decoded(picture, name, "RGB", WHITE)


def decode_pixels(data: bytes, name: str) -> Image | Mask:
    """Return pixels that were written here: uint8 [H, W] of a grey picture, else [H, W, 3]. Errors as `read_image`."""
    with open_picture(io.BytesIO(data), name, whole=True) as picture:
        return _decoded(picture, name, "L" if picture.mode == "L" else "RGB", BLACK)


def convert_image(picture: PillowImage.Image | NDArray[Any], name: str) -> Image:
    """Return a Pillow image, or an array [H, W], [H, W, 1], [H, W, 3] or [H, W, 4], as uint8 RGB [H, W, 3].

    Errors as `read_image`; of arrays, uint8 and uint16 are read.
    """
    if isinstance(picture, np.ndarray):
        return _from_array(picture, name)
    check_size(picture.size, name)
    return _decoded(picture, name, "RGB", WHITE)


def eight_bit(picture: PillowImage.Image, name: str, kind: str | None = None) -> PillowImage.Image:
    """Return the picture with at most 8 bits a channel, its mode otherwise as it is; HintError for 32 bits.

    kind: the format of its file, if it does not say. Pillow itself reads colour of 16 bits as 8, but clips grey.
    """
    sixteen = picture.mode == "I" and (kind or picture.format) == "PNG"  # PNG has no 32 bits; older Pillow says I
    if picture.mode.startswith("I;16") or sixteen:
        return PillowImage.fromarray(_scaled(np.asarray(picture)))
    if picture.mode in ("I", "F"):
        raise HintError(f"{name} has 32 bits a channel, and nobody knows its white: save it with 8 or 16 bits")
    return picture


def suffixes() -> tuple[str, ...]:
    """Return the suffixes of the files that can be read here."""
    kinds = readable()
    return tuple(suffix for suffix, kind in SUFFIXES.items() if kind in kinds)


def check_folder(folder: Path) -> None:
    """Raise HintError unless the folder is there or can be made; for long work whose result will go there.

    What killed runs left half-written in it is removed.
    """
    place = folder.absolute()
    above = next(each for each in (place, *place.parents) if each.exists())
    if not above.is_dir():
        raise HintError(f"cannot make the folder {folder}: {above} is a file")
    try:  # rights do not tell: a file system may be read-only or full, or hold no files of ours at all
        with tempfile.TemporaryDirectory(prefix=".controlstack-", dir=above):
            pass
    except OSError as error:
        raise HintError(
            f"cannot make the folder {folder}: {above} cannot be written ({error.strerror or error})"
        ) from error
    clear_leftovers(folder)


def make_folder(folder: Path) -> None:
    """Make the folder and those above it; HintError if it cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HintError(f"cannot make the folder {folder}: {error.strerror or error}") from error


def write_image(
    path: str | os.PathLike[str], image: Image | Mask, metadata: Mapping[str, str] | None = None, *, new: bool = False
) -> None:
    """Write uint8 [H, W, 3] or [H, W]; the suffix names the format, and `metadata` becomes the text of a PNG.

    The file appears complete or not at all. HintError if the suffix is unknown or the place cannot be written.
    new: raise FileExistsError where there is a file already, instead of replacing it.
    """
    target = Path(path)
    kind = WRITES.get(target.suffix.lower())
    if kind is None:
        raise HintError(f"cannot write {target}: its name must end in {', '.join(WRITES)}")
    if metadata and kind != "PNG":
        raise HintError(f"cannot write {target}: only PNG files carry settings; name it {target.stem}.png")
    if image.dtype != np.uint8 or 0 in image.shape or not (image.ndim == 2 or image.shape[2:] == (3,)):
        raise HintError(f"cannot write {image.dtype} {list(image.shape)}: expected uint8 [H, W, 3] or [H, W]")
    try:
        with replacing(target, new=new) as part:
            _encode(part, np.ascontiguousarray(image), kind, metadata or {})
    except FileExistsError:
        raise
    except (OSError, ValueError) as error:  # Pillow says ValueError for sizes that a format cannot hold
        raise HintError(f"cannot write {target}: {getattr(error, 'strerror', None) or error}") from error


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


def _read(path: Path, mode: str, background: int) -> NDArray[np.uint8]:
    """Return the picture of a file as `_decoded` does."""
    check_file(path)
    with open_picture(path, str(path), whole=True) as picture:
        return _decoded(picture, str(path), mode, background)


def _count(picture: PillowImage.Image, name: str) -> int:
    try:
        return int(getattr(picture, "n_frames", 1))
    except DAMAGED as error:
        raise HintError(f"{name} is damaged or truncated ({error}): export or download it again") from error


def _decoded(picture: PillowImage.Image, name: str, mode: str, background: int) -> NDArray[np.uint8]:
    """Return the picture upright, without transparency, as uint8: [H, W, 3] in the mode RGB, [H, W] in the mode L."""
    try:
        picture.load()
        upright = PillowOps.exif_transpose(picture)
        return np.array(_flat(eight_bit(upright, name, picture.format), background).convert(mode), np.uint8)
    except DAMAGED as error:
        raise HintError(f"{name} is damaged or truncated ({error}): export or download it again") from error


def _flat(picture: PillowImage.Image, background: int) -> PillowImage.Image:
    """Return the picture with its transparency laid on a background of one grey."""
    if "transparency" not in picture.info and picture.mode not in TRANSPARENT:
        return picture
    layer = picture.convert("RGBA")
    ground = PillowImage.new("RGBA", layer.size, (background, background, background, 255))
    return PillowImage.alpha_composite(ground, layer)


def _from_array(array: NDArray[Any], name: str) -> Image:
    """Return an array as `convert_image` does."""
    expected = "expected uint8 or uint16, [H, W], [H, W, 3] or [H, W, 4]"
    pixels = array[..., None] if array.ndim == 2 else array
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 3, 4) or 0 in pixels.shape:
        raise HintError(f"{name} is {array.dtype} {list(array.shape)}, {expected}")
    check_size((pixels.shape[1], pixels.shape[0]), name)
    if pixels.dtype == np.uint16:
        pixels = _scaled(pixels)
    if pixels.dtype != np.uint8:
        raise HintError(f"{name} is {array.dtype} {list(array.shape)}, {expected}")
    if pixels.shape[2] == 4:
        alpha = pixels[..., 3:].astype(np.float32) / 255
        return np.clip(pixels[..., :3] * alpha + WHITE * (1 - alpha), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels)


def _scaled(levels: NDArray[Any]) -> NDArray[np.uint8]:
    """Return 16-bit levels as 8-bit ones."""
    return np.rint(levels.astype(np.float64) / SIXTEEN_TO_EIGHT).astype(np.uint8)
