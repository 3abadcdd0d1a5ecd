"""Picture files as they are opened: their header alone, within limits, and what is wrong with them as a sentence."""

# pyright: reportUnknownMemberType=false
# Pillow declares some of its functions incompletely.

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Generator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ..core.errors import HintError
from .declaration import MAX_PIXELS
from .png import check_sums

if TYPE_CHECKING:
    from PIL import Image as PillowImage
else:
    from .lazy import PillowImage

READS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "AVIF", "HEIF")  # of a GIF or TIFF, the first picture
COMMON = ("PNG", "JPEG")  # tried first: Pillow reads them without its forty other plugins, which take longer to import
DAMAGED = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, struct.error, zlib.error)
ADVICE = "save it as PNG or JPEG"


def readable() -> tuple[str, ...]:
    """Return the formats that the installed Pillow reads; AVIF and HEIF depend on its version and on plugins."""
    PillowImage.init()
    return tuple(kind for kind in READS if kind in PillowImage.OPEN)


@contextmanager
def open_picture(
    source: Path | io.BytesIO, name: str, advice: str = ADVICE, *, whole: bool = False
) -> Generator[PillowImage.Image]:
    """Open a picture by its header only; too many pixels are refused before any is decoded.

    whole: its pixels are going to be read, so their check sums are looked at too, where it has some.
    """
    if whole:
        with open(source, "rb") if isinstance(source, Path) else nullcontext(source) as file:  # noqa: PTH123
            check_sums(file, name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what Pillow wonders about becomes an error of ours, or is no matter
        picture = _header(source, name, advice)
        with picture:
            check_size(picture.size, name)
            yield picture


def _header(source: Path | io.BytesIO, name: str, advice: str) -> PillowImage.Image:
    """Return a picture of which nothing but the header is read."""
    try:
        with suppress(PillowImage.UnidentifiedImageError):
            return PillowImage.open(source, formats=COMMON)
        return PillowImage.open(source, formats=readable())
    except PillowImage.DecompressionBombError as error:
        raise HintError(f"{name} has more than {MAX_PIXELS // 10**6} megapixels: scale it down") from error
    except DAMAGED as error:
        kinds = ", ".join(readable())
        wrong = f"{name} is no picture of a known format ({kinds}), or its header is damaged: {advice}"
        raise HintError(wrong) from error


def check_size(size: tuple[int, int], name: str) -> None:
    """Raise HintError for a picture of (width, height) over `MAX_PIXELS`."""
    width, height = size
    if width * height > MAX_PIXELS:
        raise HintError(f"{name} is {width}x{height}, more than {MAX_PIXELS // 10**6} megapixels: scale it down")


def check_file(path: Path) -> None:
    """Raise HintError unless the path is a file that can be read and holds something."""
    try:
        if path.is_dir():
            raise HintError(f"{path} is a folder: expected one picture")
        if not path.exists():
            raise HintError(f"there is no picture {path}: check the path")
        if not path.is_file():
            raise HintError(f"{path} is a device or a pipe: write the picture into a file, and give that")
        with path.open("rb") as file:
            empty = not file.read(1)
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the path
        raise HintError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    if empty:
        raise HintError(f"{path} is empty: export or download it again")
