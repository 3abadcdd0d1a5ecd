"""Examples in tables, through the library `datasets`: files in Parquet, or a folder that `save_to_disk` has written.

Pictures in a table are read from it when they are needed; those that it names lie in its folder.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from ...core.errors import ControlError, HintError, MissingDependencyError
from ...models.guard import one_line
from .columns import Columns, file_of
from .example import Bad, Example, Source

SAVED = ("state.json", "dataset_dict.json")  # in folders of `save_to_disk`: of one split, of several
TRAIN = "train"
OTHER_SPLITS = re.compile(r"(test|validation|valid|val|dev|eval)(?![a-z])", re.IGNORECASE)  # how file names begin


@dataclass(frozen=True, slots=True, eq=False)
class Cell:
    """A picture in a table, which `datasets` keeps as bytes, or as a path."""

    table: Any
    row: int
    column: str
    name: str
    size: int  # bytes, on the average of the table

    def read(self) -> bytes:
        """Return its bytes. HintError if there are none."""
        value: Mapping[str, Any] = self.table[self.row][self.column] or {}
        if value.get("bytes"):
            return value["bytes"]
        path = value.get("path")
        if isinstance(path, str) and Path(path).is_file():
            return Path(path).read_bytes()
        raise HintError(f"{self.name} holds no picture")


def of_training(paths: Sequence[Path]) -> Sequence[Path]:
    """Return the files that are trained on: none whose name begins as that of a test or validation split.

    Where all names do, all are.
    """
    return [path for path in paths if not OTHER_SPLITS.match(path.name)] or paths


def read_tables(paths: Sequence[Path], columns: Columns) -> Iterator[Example | Bad]:
    """Yield the examples of tables in Parquet. MissingDependencyError without `datasets`."""
    datasets = _library(paths[0], "a table in Parquet")
    with _told(paths[0], "a table in Parquet"):
        table = datasets.load_dataset("parquet", data_files=[str(path) for path in paths], split=TRAIN)
    yield from _of_table(datasets, table, paths[0], paths, columns)


def read_saved(folder: Path, columns: Columns) -> Iterator[Example | Bad]:
    """Yield the examples of a folder that `save_to_disk` has written; of several splits, those of `train`.

    MissingDependencyError without `datasets`.
    """
    datasets = _library(folder, "a data set saved by 'datasets'")
    with _told(folder, "a saved data set"):
        table = datasets.load_from_disk(str(folder))
    if isinstance(table, datasets.DatasetDict):
        if TRAIN not in table:
            raise HintError(f"'{folder}' has the splits {', '.join(table)}, none is '{TRAIN}': give the folder of one")
        table = table[TRAIN]
    yield from _of_table(datasets, table, folder, [*folder.rglob("*.arrow")], columns)


def _library(path: Path, what: str) -> Any:
    try:
        return import_module("datasets")
    except ImportError as error:
        raise MissingDependencyError(
            f"'{path}' is {what}, which needs the package 'datasets': pip install datasets"
        ) from error


@contextmanager
def _told(path: Path, what: str) -> Iterator[None]:
    """Inside, whatever a damaged file makes the library raise is a HintError."""
    try:
        yield
    except Exception as error:
        raise HintError(
            f"'{path}' cannot be read as {what} ({type(error).__name__}: {one_line(error)}): get it again, or another "
            "version of 'datasets'"
        ) from error


def _of_table(
    datasets: Any, table: Any, path: Path, files: Sequence[Path], columns: Columns
) -> Iterator[Example | Bad]:
    """Yield the examples of a table. path: of it, in whose folder lie the files that it names. files: that hold it."""
    folder = path if path.is_dir() else path.parent
    row = dict.fromkeys(table.features)
    columns.picture_of(row)  # raises where a column lacks
    columns.hint_of(row)
    packed = {name for name, feature in table.features.items() if isinstance(feature, datasets.Image)}
    for name in packed:
        table = table.cast_column(name, datasets.Image(decode=False))
    size = sum(each.stat().st_size for each in files) // max(1, len(table) * len(packed))
    shown = [name for name in table.features if name not in packed]  # pictures are read when they are needed
    rows = table.select_columns(shown) if shown else [{}] * len(table)
    for number in range(len(table)):
        place = f"row {number + 1} of '{path}'"
        cells = {name: Cell(table, number, name, f"the column '{name}' in {place}", size) for name in packed}
        yield _of_row({**rows[number], **cells}, folder, columns, place)


def _of_row(row: Mapping[str, Any], folder: Path, columns: Columns, place: str) -> Example | Bad:
    def source(value: Any, what: str) -> Source:
        return value if isinstance(value, Cell) else file_of(folder, value, what)

    try:
        hint = source(columns.hint_of(row), "hint") if columns.needs_hint else None
        return Example(source(columns.picture_of(row), "picture"), hint, columns.caption_of(row), place)
    except ControlError as error:
        return Bad(place, str(error))
