"""The examples of a folder, from the layouts that people have.

- fill50k: `prompt.json` with `source` (hint), `target` (picture), `prompt`.
- image folder: `metadata.jsonl` or `metadata.csv` with `file_name`, `text` and a column that names the hint.
- captions beside pictures: `images/0.png` and `images/0.txt`, hints of the same name in `conditioning`.
- WebDataset archives, tables in Parquet and data sets saved by the library `datasets`: `packed.py`, `tables.py`.

Any of them may have hints made from the pictures by one of our preprocessors; then no hint files are needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...core.errors import ControlError, HintError
from ...core.files import read_text
from ...preprocessors.images import suffixes
from .columns import Columns, file_of
from .entries import Entry, read_csv_entries, read_json_entries
from .example import Bad, Example
from .packed import read_archives
from .tables import SAVED, of_training, read_saved, read_tables

TEXT = {".json": read_json_entries, ".jsonl": read_json_entries, ".csv": read_csv_entries}
LISTINGS = ("prompt.json", "metadata.jsonl", "metadata.csv", "train/metadata.jsonl", "train/metadata.csv")
PACKED = {".tar": read_archives, ".parquet": read_tables}
CAPTION_SUFFIXES = (".txt", ".caption")
PICTURE_FOLDERS = ("images", "target", ".")
HINT_FOLDERS = ("conditioning", "conditioning_images", "hints", "source")


@dataclass(frozen=True, slots=True)
class Listing:
    """The examples that can be used so far, and those that cannot."""

    name: str  # what was read, for messages
    examples: Sequence[Example]
    bad: Sequence[Bad] = ()


def read_listing(data: Path, columns: Columns) -> Listing:
    """List the examples of a folder, or of a listing itself. HintError for what holds none, FileError for bad text."""
    listing = _listing(data, columns)
    if not listing.examples and not listing.bad:
        raise HintError(f"'{listing.name}' lists no example")
    return listing


def _listing(data: Path, columns: Columns) -> Listing:
    if data.is_file():
        return _of_file(data, columns)
    if not data.exists():
        raise HintError(
            f"there is no data '{data}': check the path; a data set of the hub is downloaded first (hf download "
            "--repo-type dataset NAME --local-dir FOLDER)"
        )
    for name in LISTINGS:
        if (data / name).is_file():
            return _of_text(data / name, columns)
    for suffix, read in PACKED.items():
        if files := [*sorted(data.glob(f"*{suffix}")), *sorted(data.glob(f"data/*{suffix}"))]:
            return _collected(str(data), read(of_training(files), columns))
    if any((data / name).is_file() for name in SAVED):
        return _collected(str(data), read_saved(data, columns))
    if found := _beside(data, columns):
        return found
    raise HintError(
        f"'{data}' holds none of {', '.join(LISTINGS[:3])}, no .tar or .parquet files, and no pictures with .txt "
        "captions: see the data layouts in docs/training.md"
    )


def _of_file(path: Path, columns: Columns) -> Listing:
    suffix = path.suffix.lower()
    if suffix in TEXT:
        return _of_text(path, columns)
    if suffix in PACKED:
        return _collected(str(path), PACKED[suffix]([path], columns))
    raise HintError(f"--data is '{path}', expected a folder, or a file that ends in {', '.join((*TEXT, *PACKED))}")


def _of_text(path: Path, columns: Columns) -> Listing:
    entries = TEXT[path.suffix.lower()](path)
    return _collected(str(path), (_example(path, entry, columns) for entry in entries))


def _example(path: Path, entry: Entry, columns: Columns) -> Example | Bad:
    """Return the example of an entry, or why it is none."""
    place = f"line {entry.line} of '{path}'"

    def make() -> Example:
        row = entry.value
        if entry.fault or not isinstance(row, dict):
            raise HintError(entry.fault or f"it is {str(row)[:40]!r}, expected a table of names and values")
        picture = file_of(path.parent, columns.picture_of(row), "picture")
        hint = columns.hint_of(row)
        found = None if hint is None and not columns.needs_hint else file_of(path.parent, hint, "hint")
        return Example(picture, found, columns.caption_of(row), place)

    return attempt(make, place)


def attempt(make: Callable[[], Example], place: str) -> Example | Bad:
    """Return an example, or, where making it raises, what is wrong with it."""
    try:
        return make()
    except ControlError as error:
        return Bad(place, str(error))


def _collected(name: str, found: Iterator[Example | Bad]) -> Listing:
    both = list(found)
    good = [each for each in both if isinstance(each, Example)]
    return Listing(name, good, [each for each in both if isinstance(each, Bad)])


def _beside(data: Path, columns: Columns) -> Listing | None:
    """Return the pictures of a folder that have captions beside them; None where there are none."""
    for name in PICTURE_FOLDERS:
        folder = data / name
        pictures = (
            [path for path in sorted(folder.iterdir()) if path.suffix.lower() in suffixes()] if folder.is_dir() else []
        )
        captions = {path: found for path in pictures if (found := _caption_file(path))}
        if captions:
            places = _hint_folder(data, columns)
            return _collected(str(folder), (_captioned(path, captions.get(path), places) for path in pictures))
    return None


def _caption_file(picture: Path) -> Path | None:
    return next((path for suffix in CAPTION_SUFFIXES if (path := picture.with_suffix(suffix)).is_file()), None)


def _hint_folder(data: Path, columns: Columns) -> Path | None:
    """Return the folder of the hints; None where a preprocessor makes them. HintError where it is not to be found."""
    if not columns.needs_hint:
        return None
    names = (columns.hint,) if columns.hint else HINT_FOLDERS
    found = next((data / name for name in names if (data / name).is_dir()), None)
    if found is None:
        raise HintError(
            f"'{data}' has captions beside its pictures and no folder of hints ({', '.join(names)}): name it with "
            "--hint-column, or make hints with --hint"
        )
    return found


def _captioned(picture: Path, caption: Path | None, hints: Path | None) -> Example | Bad:
    """Return the example of a picture with its caption, and its hint of the same name."""
    place = f"'{picture}'"

    def make() -> Example:
        if caption is None:
            raise HintError("there is no caption beside it: add an empty .txt file for an empty prompt")
        hint = None
        if hints is not None:
            found = (hints / f"{picture.stem}{suffix}" for suffix in (picture.suffix, *suffixes()))
            hint = next((path for path in found if path.is_file()), None)
            if hint is None:
                raise HintError(f"'{hints}' holds no picture of the same name")
        return Example(picture, hint, read_text(caption, "caption").strip(), place)

    return attempt(make, place)
