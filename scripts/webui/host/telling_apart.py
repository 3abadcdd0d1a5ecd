"""Names for model files that would share one: the WebUI's name, `stem [hash8]`, does not tell every two files apart.

Its hash reads 64 KiB at 1 MiB into the file. Small files have nothing there, and files that differ elsewhere alone
have the same 64 KiB. Such files are called by as much of their path as tells them apart, `depth/small [hash8]`. Copies
of one file are one model, which keeps the short name.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

PART, PARTS = 2**20, 16  # bytes that are compared at once; into how many parts a large file is divided


def name_each(hashes: Mapping[Path, str]) -> dict[str, Path]:
    """Return each model file by its name, in the order of the files; of copies the last one. hashes: by file."""
    alike: dict[str, list[Path]] = {}
    for path, code in hashes.items():
        alike.setdefault(f"{path.stem} [{code}]", []).append(path)
    unlike = {name: _unlike(paths) for name, paths in alike.items()}
    named = {paths[0]: name for name, paths in unlike.items() if len(paths) == 1}
    for name, paths in unlike.items():
        if len(paths) > 1:
            named |= _told_apart(name, paths, set(named.values()))
    return {named[path]: path for path in hashes if path in named}


def meant_by(name: str, files: Mapping[str, Path]) -> list[str]:
    """Return the names of the files that would share a short name, `stem [hash8]` or its stem, in lower case."""
    return [full for full, path in files.items() if name in (path.stem.lower(), _short(full, path).lower())]


def sharing(name: str, files: Mapping[str, Path]) -> list[str]:
    """Return the names of all files that would share their short name with one, itself among them."""
    return [full for full, path in files.items() if _short(full, path) == _short(name, files[name])]


def _short(full: str, path: Path) -> str:
    return f"{path.stem} [{_code(full)}"


def _code(name: str) -> str:
    return name.rpartition(" [")[2]


def _unlike(files: Sequence[Path]) -> list[Path]:
    """Return files without those of which a later one is a copy."""
    return [file for number, file in enumerate(files, start=1) if not any(_same(file, each) for each in files[number:])]


def _same(one: Path, other: Path) -> bool:
    """Return whether files hold the same: small ones are read whole, of large ones parts that lie all over them."""
    try:
        size = one.stat().st_size
        if size != other.stat().st_size:
            return False
        with one.open("rb") as first, other.open("rb") as second:
            return all(_part(first, at) == _part(second, at) for at in range(0, size, max(PART, size // PARTS)))
    except OSError:  # one is gone since it was listed
        return False


def _part(file: BinaryIO, at: int) -> bytes:
    file.seek(at)
    return file.read(PART)


def _told_apart(name: str, files: Sequence[Path], taken: Collection[str]) -> dict[Path, str]:
    """Return a name for each of some files, of which none is taken, and from which one sees where the file lies."""
    choices = ([f"{end} [{_code(name)}" for end in ends] for ends in _ends(files))
    chosen = next(each for each in choices if len(set(each)) == len(files) and not set(each) & set(taken))
    return dict(zip(files, chosen, strict=True))


def _ends(files: Sequence[Path]) -> Iterator[list[str]]:
    """Yield ever longer ends of the files' paths, each without and with the suffixes of the files; last the whole."""
    for folders in range(max(len(path.parts) for path in files)):
        above = [path.parts[max(1, len(path.parts) - 1 - folders) : -1] for path in files]
        yield ["/".join((*each, path.stem)) for each, path in zip(above, files, strict=True)]
        yield ["/".join((*each, path.name)) for each, path in zip(above, files, strict=True)]
    yield [path.as_posix() for path in files]
