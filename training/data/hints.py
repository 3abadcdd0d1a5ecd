"""Pictures with their hints, as a training sees them: read, cut, and perhaps mirrored; hints read or made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...core.embedding import Embedding
from ...core.errors import HintError
from ...core.network.base import LATENT
from ...core.resize import ResizeMode
from ...preprocessors import Output, Preprocessor, find
from ...preprocessors.resize import resize_image, scale_photograph
from .buckets import size_for
from .columns import Columns
from .example import Example, Image, read_source, shape_of


@dataclass(frozen=True, slots=True)
class HintSource:
    """Where hints come from: a column of the data, or a preprocessor and its parameters."""

    column: str | None = None
    preprocessor: str | None = None
    parameters: Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        if self.column is not None and self.preprocessor is not None:
            raise HintError(
                f"hints come from the column '{self.column}' and from the preprocessor '{self.preprocessor}', "
                "expected one of them: leave --hint-column or --hint out"
            )
        if self.preprocessor is not None:
            self._settings()
            _check_preprocessor(find(self.preprocessor))

    def __str__(self) -> str:
        """Return what the metadata of a trained file says: `canny(low=100,high=200)`, or the column."""
        if self.preprocessor is None:
            return self.column or "files"
        return f"{self.preprocessor}({','.join(f'{name}={value}' for name, value in self._settings().items())})"

    def columns(self, picture: str | None = None, caption: str | None = None) -> Columns:
        """Return which columns of a listing are read. picture, caption: names that the user gave."""
        return Columns(picture, self.column, caption, self.preprocessor is None)

    @property
    def embedding(self) -> Embedding | None:
        """Return whose embedding the hints are; None where they are pictures."""
        return None if self.preprocessor is None else find(self.preprocessor).embedding

    def make(self, picture: Image) -> Any:
        """Return what the preprocessor makes of a picture [H, W, 3]: a hint of that shape, or floats [T, D]."""
        assert self.preprocessor is not None
        parameters: dict[str, Any] = dict(self.parameters or {})
        return find(self.preprocessor)(picture, **parameters)

    def _settings(self) -> Mapping[str, object]:
        return find(self.preprocessor or "").settings(dict(self.parameters or {}))


def _check_preprocessor(preprocessor: Preprocessor) -> None:
    """Raise PreprocessorError or HintError for what makes no hint of a picture alone, of the picture's size."""
    preprocessor.check_gives_hint()
    if preprocessor.takes_mask or preprocessor.output is Output.MASKED:
        raise HintError(
            f"--hint {preprocessor.id} marks what is to be invented by a mask, and the examples of a training have "
            "none: make the hints as pictures first, and name their column as --hint-column"
        )


@dataclass(frozen=True, slots=True)
class Kind:
    """One of several kinds of hints that a network learns, and where hints of it come from."""

    kind: str
    hints: HintSource

    def __str__(self) -> str:
        return f"{self.kind}={self.hints}"


@dataclass(frozen=True, slots=True)
class View:
    """How an example is seen this time: mirrored or not, which square of it from 0 (left, top) to 1, by which source.

    source: number of what its hint comes from.
    """

    mirrored: bool = False
    across: float = 0.5
    down: float = 0.5
    source: int = 0


PLAIN = View()


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads examples. side: of the squares that they are cut to, in pixels; 0 leaves them as they are."""

    sources: tuple[HintSource, ...]  # of hints; a view names one
    side: int = 0
    buckets: bool = False  # they are cut to sizes near their own shape, of no more area than the square

    def __call__(self, example: Example, view: View = PLAIN) -> tuple[Image, Any]:
        """Return (picture, hint), both [H, W, 3] of one size; of an encoder the hint is floats [T, D].

        HintError if they cannot be read or do not fit.

        A preprocessor sees the picture as it was cut and mirrored.
        """
        picture, hint = self.files(example)
        target = self.size(picture.shape[:2])
        covering = _covering(picture.shape[:2], target)
        picture = _mirrored(_cut(scale_photograph(picture, covering), target, view), view)
        source = self.sources[view.source]
        if hint is None or source.preprocessor is not None:
            return picture, source.make(picture)
        fitted = resize_image(hint, covering, ResizeMode.JUST_RESIZE)  # its own shape may differ a little
        return picture, _mirrored(_cut(fitted, target, view), view)

    def size(self, picture: tuple[int, int]) -> tuple[int, int]:
        """Return (height, width) that a picture of this size is cut to."""
        if not self.side:
            return picture
        return size_for(picture, self.side) if self.buckets else (self.side, self.side)

    def files(self, example: Example) -> tuple[Image, Image | None]:
        """Return the pictures in an example's files; the hint is None where a preprocessor makes it.

        HintError where sizes are wrong: hints of another size, and sides that are no multiples of a latent pixel's, are
        refused unless both are cut to squares.
        """
        picture = read_source(example.picture)
        hint = None if example.hint is None else read_source(example.hint)
        if fault := self._fault(picture.shape[:2], None if hint is None else hint.shape[:2]):
            raise HintError(fault)
        return picture, hint

    def headers(self, example: Example, wanted: tuple[int, ...] | None) -> tuple[int, ...]:
        """Return (height, width) as `size`, by the headers of an example's files; nothing of packed ones.

        HintError where sizes are wrong. wanted: of the other examples. Whether a picture lies on its side in its file
        is asked only where something does not fit, since that takes long.
        """
        if not all(isinstance(each, Path) for each in example.sources):
            return ()
        size, fault = (0, 0), None
        for upright in (False, True):
            picture, *hint = (shape_of(each, upright=upright) for each in example.sources)
            size, fault = self.size(picture), self._fault(picture, hint[0] if hint else None)
            if fault is None and wanted in (None, size):
                break
        if fault is not None:
            raise HintError(fault)
        return size

    def _fault(self, picture: tuple[int, ...], hint: tuple[int, ...] | None) -> str | None:
        """Return what is wrong with the sizes (height, width) of a picture and its hint."""
        if self.side:
            return None
        if hint is not None and hint != picture:
            return (
                f"the hint is {hint[1]}x{hint[0]}, its picture {picture[1]}x{picture[0]}: sizes must be equal, or "
                "give --resolution, such as 512, which scales both"
            )
        if picture[0] % LATENT or picture[1] % LATENT:
            return (
                f"the picture is {picture[1]}x{picture[0]}: both sides must be multiples of {LATENT}; --resolution, "
                "such as 512, cuts them"
            )
        return None


def _covering(size: tuple[int, int], target: tuple[int, int]) -> tuple[int, int]:
    """Return the smallest (height, width) of the shape of `size` that covers `target`."""
    k = max(target[0] / size[0], target[1] / size[1])
    return max(target[0], round(size[0] * k)), max(target[1], round(size[1] * k))


def _cut(picture: Image, target: tuple[int, int], view: View) -> Image:
    """Return the part (height, width) of a picture that a view shows."""
    top, left = (
        int(place * (length - wanted))
        for place, length, wanted in zip((view.down, view.across), picture.shape, target, strict=False)
    )
    return np.ascontiguousarray(picture[top : top + target[0], left : left + target[1]])


def _mirrored(picture: Image, view: View) -> Image:
    return np.ascontiguousarray(picture[:, ::-1]) if view.mirrored else picture
