"""Every preprocessor, in the order in which users see them: the one list that all edges draw from."""

from __future__ import annotations

from collections.abc import Iterator

from ..core.errors import PreprocessorError
from . import color, edges, lines, ready, tiles
from .base import Preprocessor, nearest

REGISTRY: tuple[Preprocessor, ...] = (
    ready.NONE,
    edges.CANNY,
    lines.LINEART_STANDARD,
    lines.SCRIBBLE_XDOG,
    lines.THRESHOLD,
    ready.INVERT,
    color.COLOR_GRID,
    color.RECOLOR_LUMINANCE,
    color.RECOLOR_INTENSITY,
    color.SHUFFLE,
    tiles.TILE_RESAMPLE,
    tiles.BLUR_GAUSSIAN,
)


def find(name: str) -> Preprocessor:
    """The preprocessor of that id or alias, in any case; if there is none, PreprocessorError with the nearest names."""
    wanted = name.strip().lower()
    for preprocessor in REGISTRY:
        if wanted in (each.lower() for each in names(preprocessor)):
            return preprocessor
    close = nearest(name, (each for preprocessor in REGISTRY for each in names(preprocessor)))
    offer = f"did you mean {' or '.join(close)}?" if close else f"known are {', '.join(each.id for each in REGISTRY)}"
    raise PreprocessorError(f"there is no preprocessor {name!r}: {offer}")


def names(preprocessor: Preprocessor) -> Iterator[str]:
    """Its id, then its aliases."""
    yield preprocessor.id
    yield from preprocessor.aliases
