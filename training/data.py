"""Training pictures with hints and captions, from the folder layouts that people have.

- fill50k: `prompt.json`, one JSON object a line with `source` (hint), `target` (picture), `prompt`.
- image folder: `metadata.jsonl`, one JSON object a line with `file_name`, `text` and a column that names the hint.
- either of them with hints made from the pictures by one of our preprocessors, in which case no hint files are needed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.errors import HintError
from ..core.resize import ResizeMode
from ..preprocessors import find
from ..preprocessors.images import read_image
from ..preprocessors.resize import resize_image, scale_short_side

Image = NDArray[np.uint8]
FILL50K, FOLDER = "prompt.json", "metadata.jsonl"


@dataclass(frozen=True, slots=True)
class Example:
    """One training example: the files, and the words."""

    picture: Path
    hint: Path | None
    prompt: str


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

    def __str__(self) -> str:
        """What the metadata of a trained file says: `canny(low=100,high=200)`, or the column."""
        if self.preprocessor is None:
            return self.column or "files"
        settings = find(self.preprocessor).settings(dict(self.parameters or {}))
        return f"{self.preprocessor}({','.join(f'{name}={value}' for name, value in settings.items())})"

    def reader(self, side: int = 0) -> Callable[[Example], tuple[Image, Image]]:
        """A function: example -> (picture, hint), both [H, W, 3] of one size.

        side: cut both to squares of that many pixels, before a preprocessor sees them; 0: leave them as they are.
        """
        if self.preprocessor is None:
            return partial(_read_pair, side=side)
        preprocessor = find(self.preprocessor)
        parameters: dict[str, Any] = dict(self.parameters or {})

        def read(example: Example) -> tuple[Image, Image]:
            picture = _square(read_image(example.picture), side)
            return picture, preprocessor(picture, **parameters)

        return read


def read_examples(folder: Path, source: HintSource) -> list[Example]:
    """List the examples of a folder; every file is checked to exist before any training."""
    for name, parse in ((FILL50K, _fill50k), (FOLDER, _image_folder)):
        if (folder / name).is_file():
            return _checked(list(_parsed(folder / name, parse, source)), folder / name)
    raise HintError(f"'{folder}' holds neither {FILL50K} nor {FOLDER}: see the data layouts in docs/training.md")


def _parsed(listing: Path, parse: Callable[..., Example], source: HintSource) -> Iterator[Example]:
    for number, line in enumerate(listing.read_text(encoding="utf-8").splitlines(), start=1):
        if line.strip():
            try:
                yield parse(listing.parent, json.loads(line), source)
            except (json.JSONDecodeError, KeyError, TypeError) as error:
                raise HintError(
                    f"line {number} of '{listing}' is no example ({error!r}): see the data layouts in docs/training.md"
                ) from error


def _fill50k(folder: Path, line: Mapping[str, str], source: HintSource) -> Example:
    hint = None if source.preprocessor else folder / line[source.column or "source"]
    return Example(folder / line["target"], hint, line["prompt"])


def _image_folder(folder: Path, line: Mapping[str, str], source: HintSource) -> Example:
    if source.preprocessor:
        return Example(folder / line["file_name"], None, line["text"])
    column = source.column or "conditioning_image"
    if column not in line:
        raise HintError(f"{FOLDER} has the columns {', '.join(line)}, none is '{column}': name it with --hint-column")
    return Example(folder / line["file_name"], folder / line[column], line["text"])


def _checked(examples: list[Example], listing: Path) -> list[Example]:
    if not examples:
        raise HintError(f"'{listing}' lists no example")
    for example in examples:
        for path in (example.picture, example.hint):
            if path is not None and not path.is_file():
                raise HintError(f"'{listing}' names '{path}', which is no file")
    return examples


def _read_pair(example: Example, side: int) -> tuple[Image, Image]:
    assert example.hint is not None
    picture, hint = read_image(example.picture), read_image(example.hint)
    if picture.shape != hint.shape:
        raise HintError(f"'{example.hint}' is {hint.shape[:2]}, its picture {picture.shape[:2]}: sizes must be equal")
    if not side:
        return picture, hint
    return _square(picture, side), resize_image(hint, (side, side), ResizeMode.CROP)


def _square(picture: Image, side: int) -> Image:
    """The middle of a photograph, scaled to `side` pixels; itself for 0. `resize_image` takes flat art for drawings."""
    if not side:
        return picture
    scaled = scale_short_side(picture, side)
    top, left = ((length - side) // 2 for length in scaled.shape[:2])
    return np.ascontiguousarray(scaled[top : top + side, left : left + side])
