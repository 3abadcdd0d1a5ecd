"""Files that appear complete or not at all: written beside their place, under a short name, and then moved there.

The temporary name is short because a file system bounds the length of names (255 bytes as a rule), and a long name
that fits must not fail because of what is added to it.
"""

from __future__ import annotations

import uuid
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def replacing(target: Path, suffix: str = "") -> Generator[Path]:
    """Yield the path of a temporary file beside `target`, which takes its place when the context ends well.

    suffix: the end of the temporary name, for programs that tell a format by it. OSError if `target` cannot be written.
    """
    part = target.with_name(f".{uuid.uuid4().hex}.part{suffix}")
    try:
        yield part
        part.replace(target)
    finally:  # an error or an interrupt leaves nothing behind
        with suppress(OSError):  # of a folder that is gone or full: the error that led here says so already
            part.unlink(missing_ok=True)
