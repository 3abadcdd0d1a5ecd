"""What is judged: drawn pictures, each with the example that it was drawn for, and a reference set."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....core.errors import ControlError, HintError
from ....preprocessors.folders import list_pictures
from ....preprocessors.images import read_image
from ...data.checking import CHEAP, Checked, check, depth_for, refuse
from ...data.columns import Columns
from ...data.example import Example
from ...data.hints import HintSource, Reader
from ...data.listings import read_listing
from .options import Asked

Image = NDArray[np.uint8]
Bar = Callable[[Sequence[Any], str], Iterable[Any]]

UNCHANGED = "none"  # the preprocessor that gives the picture itself
SHOWN = 3  # names in a message


@dataclass(frozen=True, slots=True)
class Item:
    """One picture to judge: its file, and the example that it was drawn for, where there is one."""

    name: str
    drawn: Path
    example: Example | None = None


def read_examples(asked: Asked, bar: Bar) -> tuple[Sequence[Example], Reader]:
    """Return the examples, checked, and what reads them. HintError names what cannot be used."""
    assert asked.data is not None
    listing = read_listing(
        asked.data,
        Columns(asked.picture_column, asked.hints.column, asked.caption_column, asked.hints.column is not None),
    )
    chosen = listing.examples[: asked.limit or None]
    source = asked.hints if asked.has_hints else HintSource(preprocessor=UNCHANGED)
    if source.embedding is not None:
        raise HintError(
            f"--hint {source.preprocessor} makes no picture, expected hints that can be seen in a drawn one"
        )
    reader = Reader((source,), asked.resolution)
    checked: Checked = check(bar(chosen, "examples checked"), reader, depth_for(chosen, whole=False), alike=False)
    refuse([*listing.bad, *checked.bad], len(listing.examples) + len(listing.bad), "mend them, or take them out")
    return checked.examples, reader


def items_of(folder: Path, examples: Sequence[Example] | None, limit: int) -> list[Item]:
    """Return the pictures of a folder; with examples, the one of each, by the name of the example's picture.

    HintError where the folder holds none, or lacks pictures of examples.
    """
    files = pictures_of(folder, "--pictures")
    if examples is None:
        return [Item(path.name, path) for path in files[: limit or None]]
    by_stem = {path.stem: path for path in files}
    found = [(example, by_stem.get(stem_of(example, index))) for index, example in enumerate(examples)]
    if missing := [stem_of(each, index) for index, (each, path) in enumerate(found) if path is None]:
        named = ", ".join(missing[:SHOWN])
        raise HintError(
            f"'{folder}' lacks the pictures of {len(missing)} of {len(examples)} examples ({named}): a picture has the "
            "name of the example that it was drawn for"
        )
    return [Item(path.name, path, example) for example, path in found if path is not None]


def stem_of(example: Example, index: int) -> str:
    """Return the name of the picture drawn for an example, without suffix; examples in archives go by their number."""
    return example.picture.stem if isinstance(example.picture, Path) else f"{index:06d}"


def pictures_of(folder: Path, option: str) -> Sequence[Path]:
    """Return the pictures of a folder and of those in it. HintError where there are none."""
    if not folder.is_dir():
        raise HintError(f"{option} is '{folder}', which is no folder: give one of pictures")
    found = list_pictures(folder, deep=True).files
    if not found:
        raise HintError(f"{option} is '{folder}', which holds no picture")
    return found


def check_pictures(paths: Sequence[Path], bar: Bar) -> None:
    """Raise HintError for files that are no pictures: all are read where that is cheap, the first one otherwise."""
    cheap = sum(path.stat().st_size for path in paths) <= CHEAP
    bad: list[str] = []
    for path in bar(paths if cheap else paths[:1], "pictures checked"):
        try:
            read_image(path)
        except ControlError as error:
            bad.append(str(error))
    if bad:
        raise HintError(f"{len(bad)} of {len(paths)} pictures cannot be used: {'; '.join(bad[:SHOWN])}: remove them")
