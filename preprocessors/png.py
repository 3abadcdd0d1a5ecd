"""Check sums of PNG files: Pillow decodes pixels without looking at them, and a damaged picture would be wrong."""

from __future__ import annotations

import struct
import zlib
from typing import BinaryIO

from ..core.errors import HintError

SIGNATURE = b"\x89PNG\r\n\x1a\n"
PIXELS, END = (b"IDAT", b"fdAT"), b"IEND"  # of pictures, and of further frames


def check_sums(file: BinaryIO, name: str) -> None:
    """Raise HintError where pixels of a PNG file are not those that were written; other files pass.

    What ends too early passes too: whoever decodes it says so. The file is left at its beginning.
    """
    try:
        if file.read(len(SIGNATURE)) == SIGNATURE:
            _check_chunks(file, name)
    finally:
        file.seek(0)


def _check_chunks(file: BinaryIO, name: str) -> None:
    """Check every chunk from here on: its length, its kind, its content, and CRC-32 of kind and content (PNG, 5.3)."""
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        if kind == END:
            return
        if kind not in PIXELS:
            file.seek(length + 4, 1)
            continue
        content, told = file.read(length), file.read(4)
        if len(told) == 4 and zlib.crc32(kind + content) != struct.unpack(">I", told)[0]:
            raise HintError(f"{name} is damaged (its check sum is wrong): export or download it again")
