"""Videos in and out, frame by frame, through ffmpeg: a clip is never in memory as a whole.

Hints are written without loss, in RGB: a line of one pixel and a colour that means something would not survive the
usual halved colour planes. The package imageio-ffmpeg brings an ffmpeg of its own (`pip install controlstack[video]`).
"""

from __future__ import annotations

import importlib
import logging
import re
import subprocess
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...core.errors import HintError, MissingDependencyError
from ...core.files import replacing

Image = NDArray[np.uint8]

SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".wmv", ".flv")
CODEC, PIXELS = "libx264rgb", "rgb24"  # H.264 that keeps RGB
LOSSLESS = ["-crf", "0", "-preset", "fast"]
MEAN = re.compile(r"Video:.* ([\d.]+)(k?) fps")  # frames a second, of the whole clip
TICK = re.compile(r"Video:.* ([\d.]+)(k?) tbr")  # the steadiest rate at which none is left out
NOTE = re.compile(r"^ *comment *: (.*)$", re.MULTILINE)
STEADY = 0.005  # a larger part by which both differ is a rate that changes, as that of telephones does


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
    """Open a video to read from; HintError if there is none, or ffmpeg does not understand it.

    Every frame comes once. Where the time between frames changes, they come at the mean rate instead, some twice and
    some not, so that what is written at `rate` lasts as long.
    """
    if not path.is_file():
        raise HintError(f"there is no video {path}: check the path")
    rate, even = _rate(path)
    reader = _ffmpeg().read_frames(str(path), pix_fmt=PIXELS, output_params=even)
    try:
        about = _understood(lambda: next(reader), path)
        width, height = about["size"]
        frames = _frames(reader, (height, width, 3), path)
        yield Clip(width, height, rate, max(1, round(about["duration"] * rate)), frames)
    finally:
        reader.close()


def read_note(path: Path) -> str:
    """Return what was written into a video as its note; empty if nothing was."""
    found = NOTE.search(_description(path))
    return found[1] if found else ""


def write_video(path: Path, rate: float, frames: Iterable[Image], note: str = "") -> int:
    """Write frames of one size, and a note of one line, and return how many frames there were.

    The file appears complete or not at all. HintError if there are no frames, or ffmpeg cannot write them.
    """
    try:
        with replacing(path, path.suffix) as part:
            count = _write_frames(part, rate, frames, note)
            if not part.is_file():
                raise HintError(f"cannot write {path}: {'ffmpeg made no file' if count else 'the video has no frames'}")
    except OSError as error:  # ffmpeg ended early, for one
        raise HintError(f"cannot write {path}: {' '.join(str(error).split())}") from error
    return count


def _write_frames(path: Path, rate: float, frames: Iterable[Image], note: str) -> int:
    """Write the file without further care, and return the number of frames; none make no file."""
    writer: Generator[None, Any, None] | None = None
    count = 0
    try:
        for frame in frames:
            if writer is None:
                writer = _writer(path, rate, frame, note)
            writer.send(np.ascontiguousarray(frame))
            count += 1
    finally:
        if writer is not None:
            writer.close()
    return count


def _writer(path: Path, rate: float, frame: Image, note: str) -> Generator[None, Any, None]:
    height, width = frame.shape[:2]
    writer = _ffmpeg().write_frames(
        str(path), (width, height), pix_fmt_in=PIXELS, pix_fmt_out=PIXELS, fps=rate, codec=CODEC, quality=None,
        macro_block_size=1, output_params=[*LOSSLESS, "-metadata", f"comment={note}"],
    )  # fmt: skip
    writer.send(None)
    return writer


def _rate(path: Path) -> tuple[float, list[str]]:
    """Return frames a second, and ffmpeg's options that give so many; HintError if the clip does not say it."""
    about = _description(path)
    mean, tick = (_number(pattern.search(about)) for pattern in (MEAN, TICK))
    if not (mean or tick):
        raise HintError(f"{path} cannot be read as a video (its frames have no rate): convert or download it again")
    steady = not (mean and tick) or abs(mean - tick) <= STEADY * tick
    return mean or tick, [] if steady else ["-r", f"{mean:g}"]


def _number(found: re.Match[str] | None) -> float:
    return float(found[1]) * (1000 if found[2] else 1) if found else 0.0


def _description(path: Path) -> str:
    """Return what ffmpeg says of a file."""
    command = [_ffmpeg().get_ffmpeg_exe(), "-hide_banner", "-i", str(path.absolute())]
    said = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, check=False)
    return said.stderr.decode("utf-8", errors="replace")


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
        package = importlib.import_module("imageio_ffmpeg")
    except ImportError as error:
        raise MissingDependencyError("videos need imageio-ffmpeg: pip install imageio-ffmpeg") from error
    logging.getLogger("imageio_ffmpeg").setLevel(logging.ERROR)  # it warns of pictures that were turned upright
    return package
