"""One file out of a zip file, right or absent: some publishers put a network into an archive of their tool's.

Only the content of one member is read; where the archive would like it to lie plays no part.
"""

from __future__ import annotations

import hashlib
import os
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO

from .network import Archive

BLOCK = 2**20  # bytes copied at once
LARGEST = 8 * 2**30  # bytes of a member whose size nobody published; a small archive can claim any


class ArchiveError(Exception):
    """The archive is damaged, or does not hold what it should; the message says which."""


def unpack(
    path: Path, archive: Archive, target: Path, size: int | None, sha256: str, check: Callable[[], None]
) -> None:
    """Make `target` exist with what the archive at `path` holds; ArchiveError if that is not the right file.

    `check` is called between blocks and may raise. OSError if `target` cannot be written.
    """
    part = target.with_name(target.name + ".unpacked")
    try:
        with zipfile.ZipFile(path) as opened, part.open("wb") as file:
            digest = _copy(opened, _member(opened, archive, size), file, check)
        if sha256 and digest != sha256:
            raise ArchiveError(f"its {archive.member} is another file: the sha256 is {digest}, expected {sha256}")
        part.replace(target)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise ArchiveError(f"it is no archive that can be read ({error})") from error
    finally:
        part.unlink(missing_ok=True)


def _member(opened: zipfile.ZipFile, archive: Archive, size: int | None) -> zipfile.ZipInfo:
    found = [each for each in opened.infolist() if each.filename.endswith(archive.member) and not each.is_dir()]
    if len(found) != 1:
        raise ArchiveError(f"it holds {len(found)} files {archive.member}, expected one")
    claimed = found[0].file_size
    if claimed > LARGEST or (size is not None and claimed != size):
        expected = f"{size:,}" if size is not None else f"at most {LARGEST:,}"
        raise ArchiveError(f"its {archive.member} has {claimed:,} bytes, expected {expected}")
    return found[0]


def _copy(opened: zipfile.ZipFile, member: zipfile.ZipInfo, file: IO[bytes], check: Callable[[], None]) -> str:
    digest = hashlib.sha256()
    with opened.open(member) as source:  # which checks its length and its checksum
        while block := source.read(BLOCK):
            check()
            digest.update(block)
            file.write(block)
    file.flush()
    os.fsync(file.fileno())
    return digest.hexdigest()
