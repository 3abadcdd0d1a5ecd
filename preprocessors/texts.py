"""Texts that picture files carry: chunks of PNG files, and what WebUIs write into JPEG and WebP."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.errors import HintError
from .opening import DAMAGED, check_file, open_picture

if TYPE_CHECKING:
    from PIL import ExifTags
else:
    from .lazy import ExifTags

WEBUI = "parameters"  # the text that WebUIs write
UNICODE = b"UNICODE\0"  # before an EXIF comment in UTF-16 (EXIF 2.3, 4.6.5)


def read_texts(path: Path, name: str = "") -> dict[str, str]:
    """Return the texts of a picture file by their names; an EXIF comment has the name `parameters`.

    name: what the file is called in messages, if not by its path. HintError if there is no such file, or it is no
    picture, damaged, of another format, or over `MAX_PIXELS`.
    """
    check_file(path)
    with open_picture(path, name or str(path)) as picture:
        try:
            found = _texts(picture)
            comment = picture.getexif().get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.UserComment)
        except DAMAGED as error:
            raise HintError(f"{name or path} is damaged or truncated ({error}): export or download it again") from error
    if isinstance(comment, bytes) and comment.startswith(UNICODE):
        found.setdefault(WEBUI, comment[len(UNICODE) :].decode("utf-16-be", errors="replace"))
    return found


def _texts(picture: Any) -> dict[str, str]:
    """Return the texts that stand before the pixels, or, where there are none, those behind them."""
    found = {name: value for name, value in picture.info.items() if isinstance(value, str)}
    return found or dict(getattr(picture, "text", {}))
