"""Videos in and out, frame by frame, through ffmpeg: a clip is never in memory as a whole.

Hints are written without loss, in RGB: a line of one pixel and a colour that means something would not survive the
usual halved colour planes. The package imageio-ffmpeg brings an ffmpeg of its own (`pip install controlstack[video]`).
"""

from __future__ import annotations

import importlib
import uuid
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.errors import HintError, MissingDependencyError

Image = NDArray[np.uint8]

SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".wmv", ".flv")
CODEC, PIXELS = "libx264rgb", "rgb24"  # H.264 that keeps RGB
LOSSLESS = ["-crf", "0", "-preset", "fast"]


@dataclass(frozen=True, slots=True)
class Clip:
    """An open video: its frames are uint8 RGB [H, W, 3], upright, and can be taken once."""

    width: int
    height: int
    rate: float  # frames a second
    expected: int  # about how many frames there are
    frames: Iterator[Image]


@contextmanager
def open_video(path: Path) -> Iterator[Clip]:
    """A video to read from; HintError if there is none, or ffmpeg does not understand it."""
    if not path.is_file():
        raise HintError(f"there is no video {path}: check the path")
    reader = _ffmpeg().read_frames(str(path), pix_fmt=PIXELS)
    try:
        about = _understood(lambda: next(reader), path)
        width, height = about["size"]
        frames = _frames(reader, (height, width, 3), path)
        yield Clip(width, height, about["fps"], max(1, round(about["duration"] * about["fps"])), frames)
    finally:
        reader.close()


def write_video(path: Path, rate: float, frames: Iterable[Image]) -> int:
    """Write frames of one size; their number. The file appears complete or not at all.

    HintError if there are no frames, or ffmpeg cannot write them.
    """
    part = path.with_name(f".{uuid.uuid4().hex}.part{path.suffix}")
    writer: Generator[None, Any, None] | None = None
    count = 0
    try:
        for frame in frames:
            if writer is None:
                writer = _writer(part, rate, frame)
            writer.send(np.ascontiguousarray(frame))
            count += 1
        if writer is None:
            raise HintError(f"cannot write {path}: the video has no frames")
        writer.close()
        if not part.is_file():
            raise HintError(f"cannot write {path}: ffmpeg made no file")
        part.replace(path)
    except OSError as error:  # ffmpeg ended early, for one
        raise HintError(f"cannot write {path}: {' '.join(str(error).split())}") from error
    finally:
        if writer is not None:
            writer.close()
        part.unlink(missing_ok=True)  # an interrupt leaves nothing behind
    return count


def _writer(path: Path, rate: float, frame: Image) -> Generator[None, Any, None]:
    height, width = frame.shape[:2]
    writer = _ffmpeg().write_frames(
        str(path), (width, height), pix_fmt_in=PIXELS, pix_fmt_out=PIXELS, fps=rate, codec=CODEC, quality=None,
        macro_block_size=1, output_params=LOSSLESS,
    )  # fmt: skip
    writer.send(None)
    return writer


def _frames(reader: Iterator[bytes], shape: tuple[int, int, int], path: Path) -> Iterator[Image]:
    while (block := _understood(lambda: next(reader, None), path)) is not None:
        yield np.frombuffer(block, np.uint8).reshape(shape)


def _understood(read: Callable[[], Any], path: Path) -> Any:
    try:
        return read()
    except (OSError, RuntimeError, StopIteration) as error:
        reason = " ".join((str(error).splitlines() or ["no frames"])[-1].split())
        raise HintError(f"{path} cannot be read as a video ({reason}): convert or download it again") from error


def _ffmpeg() -> Any:
    try:
        return importlib.import_module("imageio_ffmpeg")
    except ImportError as error:
        raise MissingDependencyError("videos need imageio-ffmpeg: pip install imageio-ffmpeg") from error
