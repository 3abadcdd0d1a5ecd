"""What was named on a command line -> pictures: files, folders of them, patterns such as `*.png`, and videos.

Shells of Windows expand no patterns, and no shell expands what stands inside a unit, so both are done here.
"""

from __future__ import annotations

import glob
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ...core.errors import FileError, HintError
from ...core.files import path_of
from .videos import SUFFIXES as VIDEOS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Image = NDArray[np.uint8]

DIGITS = 6  # of the number of a video's frame


@dataclass(frozen=True, slots=True)
class Frame:
    """One of many pictures: where its result goes below the output folder, without suffix, and the picture."""

    name: Path
    picture: Path | Image


@dataclass(frozen=True, slots=True)
class Files:
    """Pictures that are known at once: files, or the frames of one animation."""

    said: Path
    frames: tuple[Frame, ...]
    left_out: str = ""  # what else a folder holds, in words

    def __iter__(self) -> Iterator[Frame]:
        return iter(self.frames)


@dataclass(frozen=True, slots=True)
class Film:
    """The frames of a video, which are read as they are asked for."""

    said: Path
    rate: float  # frames a second
    expected: int  # about how many there are

    def __iter__(self) -> Iterator[Frame]:
        from .videos import open_video

        with open_video(self.said) as clip:
            for number, frame in enumerate(clip.frames, start=1):
                yield Frame(Path(self.said.stem, f"{number:0{DIGITS}d}"), frame)


def expand(paths: Sequence[Path]) -> list[Path]:
    """Return paths with `~` and patterns replaced by what they mean, patterns in natural order.

    A path that exists is no pattern, whatever its name holds. FileError for a pattern that nothing has.
    """
    found: list[Path] = []
    for path in paths:
        plain = path_of(str(path))
        found += _matches(plain) if is_pattern(plain) else [plain]
    return found


def is_pattern(path: Path) -> bool:
    """Return whether a path names many files by a pattern such as `*.png`."""
    return glob.has_magic(str(path)) and not path.exists()


def many(path: Path, output: Path) -> Files | Film | None:
    """Return the pictures of a folder, a pattern, a video or an animation; None for what is one picture.

    output: a folder whose files are not looked at. HintError for a folder without pictures.
    """
    if path.is_dir():
        return _in_folder(path, output)
    if is_pattern(path):
        return Files(path, _named([Path(each.name) for each in expand([path])], expand([path])))
    if path.suffix.lower() in VIDEOS:
        return _film(path)
    return _animation(path)


def _film(path: Path) -> Film:
    from .videos import open_video

    with open_video(path) as clip:
        return Film(path, clip.rate, clip.expected)


def _animation(path: Path) -> Files | None:
    """Return the frames of a GIF, WebP, APNG or TIFF that holds several pictures; None for one picture."""
    from ...preprocessors.images import count_frames, read_frames

    if count_frames(path) < 2:
        return None
    return Files(path, numbered(path, read_frames(path)))


def numbered(path: Path, pictures: Iterable[Image]) -> tuple[Frame, ...]:
    """Return the pictures of one file as frames, which go into a folder of its name."""
    frames = enumerate(pictures, start=1)
    return tuple(Frame(Path(path.stem, f"{number:0{DIGITS}d}"), frame) for number, frame in frames)


def _in_folder(folder: Path, output: Path) -> Files:
    from ...preprocessors.folders import list_pictures

    if folder.resolve() == output.resolve():
        raise HintError(f"{folder} is the output folder too: choose another --output")
    listing = list_pictures(folder, deep=True, outside=output)
    if not listing.files:
        raise HintError(f"there are no pictures in {folder}{f' but {listing.remark()}' if listing.left_out else ''}")
    names = [path.relative_to(folder) for path in listing.files]
    return Files(folder, _named(names, listing.files), listing.remark())


def _named(names: Sequence[Path], files: Sequence[Path]) -> tuple[Frame, ...]:
    """Return frames under names without suffix; `a.jpg` and `a.png` stay apart as `a-jpg` and `a-png`."""
    bare = [name.with_suffix("") for name in names]
    count = Counter(bare)
    apart = [
        short if count[short] == 1 else name.with_name(name.name.replace(".", "-"))
        for short, name in zip(bare, names, strict=True)
    ]
    return tuple(Frame(name, path) for name, path in zip(apart, files, strict=True))


def _matches(pattern: Path) -> list[Path]:
    from ...preprocessors.folders import natural

    below = Path(pattern.anchor)  # Path.glob takes no absolute patterns
    found = [path for path in below.glob(str(pattern.relative_to(below))) if not path.name.startswith(".")]
    if not found:
        raise FileError(f"nothing is called {pattern}: check the path")
    return sorted(found, key=lambda path: natural(path.parts))
