"""One training example: where its picture and hint are, its words, and where it is listed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ...core.errors import HintError
from ...preprocessors.images import decode_image, image_size, read_image

Image = NDArray[np.uint8]


class Packed(Protocol):
    """A picture inside a larger file, such as a tar archive or a table."""

    @property
    def name(self) -> str:
        """Return what the picture is called in messages."""
        ...

    @property
    def size(self) -> int:
        """Return how many bytes it has, about."""
        ...

    def read(self) -> bytes:
        """Return the bytes of its file. HintError if there are none."""
        ...


Source = Path | Packed


@dataclass(frozen=True, slots=True)
class Example:
    """One training example. `place` is where it is listed, such as "line 3 of 'prompt.json'"."""

    picture: Source
    hint: Source | None
    prompt: str
    place: str

    @property
    def sources(self) -> tuple[Source, ...]:
        """Return the files of the example."""
        return (self.picture,) if self.hint is None else (self.picture, self.hint)


@dataclass(frozen=True, slots=True)
class Bad:
    """An example that cannot be used, and why."""

    place: str
    reason: str

    def __str__(self) -> str:
        return f"{self.place}: {self.reason}"


def read_source(source: Source) -> Image:
    """Return a picture as uint8 RGB [H, W, 3]. HintError if it cannot be read."""
    return read_image(source) if isinstance(source, Path) else decode_image(source.read(), source.name)


def shape_of(source: Source, *, upright: bool = True) -> tuple[int, int]:
    """Return (height, width) of a picture by its header. HintError if it cannot be read. upright: as `image_size`."""
    if isinstance(source, Path):
        return image_size(source, str(source), upright=upright)
    return image_size(source.read(), source.name, upright=upright)


def size_of(source: Source) -> int:
    """Return how many bytes have to be read for a picture. HintError if it cannot be read."""
    try:
        return source.stat().st_size if isinstance(source, Path) else source.size
    except OSError as error:
        raise HintError(f"cannot read {source}: {error.strerror or error}") from error
