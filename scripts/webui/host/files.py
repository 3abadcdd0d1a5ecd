"""The control models on disk, under the names that the WebUI shows: `stem [hash8]`, or more of their path."""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from ....core.errors import ModelError
from ....core.files import files_below
from ....models.guard import shown
from ....units.webui.fields import NO_MODEL
from .telling_apart import meant_by, name_each, sharing

log = logging.getLogger("controlstack")

SUFFIXES = (".safetensors", ".pth", ".pt", ".ckpt", ".bin")
HASH_OFFSET, HASH_LENGTH, HASH_SHOWN = 0x100000, 0x10000, 8  # the WebUI's short hash, `sd_models.model_hash`
NEAR = 3  # names in a message
LONGEST = 400  # characters of a name that are looked at
_SUFFIX = re.compile(rf"({'|'.join(map(re.escape, SUFFIXES))})(?= \[|$)", re.IGNORECASE)


class ModelFiles:
    """The files of some folders; `refresh` reads the folders again, and hashes only what is new or has changed."""

    def __init__(self, folders: Sequence[Path] | Callable[[], Sequence[Path]]) -> None:
        """folders: those to look at, or what returns them anew each time, for settings may change."""
        self._folders = folders if callable(folders) else lambda: folders
        self._hashes: dict[tuple[Path, int, int], str] = {}
        self._files: dict[str, Path] = {}
        self.refresh()

    def refresh(self) -> None:
        """Look at the folders again."""
        found = sorted({path.resolve() for folder in self._folders() for path in _files(folder)}, key=_order)
        hashes = {path: self._hash(path) for path in found if path.stem != NO_MODEL}
        self._files = name_each({path: code for path, code in hashes.items() if code is not None})

    @property
    def names(self) -> list[str]:
        """Return the name of every model, sorted; one that was removed since is left out."""
        return [name for name, path in self._files.items() if path.is_file()]

    def find(self, name: str) -> tuple[str, Path]:
        """Return (full name, path) by full name, by stem in any case, or by the shortest name that holds the text.

        The same order as sd-webui-controlnet's, since clients rely on short names. ModelError names the nearest, or all
        files that would share the name.
        """
        if (exact := name.strip()) in self._files and self._files[exact].is_file():
            return exact, self._files[exact]
        stripped = _bare(name)
        if not stripped or stripped.lower() == NO_MODEL.lower():
            raise ModelError("it is on, but has no model: choose one, or switch the unit off")
        match = self._match(stripped)
        if match is None:  # it may have been put there since
            self.refresh()
            match = self._match(stripped)
        if match is None:
            raise ModelError(f"there is no control model '{shown(name)}': {self._offer(stripped)}")
        path = self._files[match]
        if not path.is_file():
            raise ModelError(f"the control model '{match}' is gone from {path}: put it back, or choose another one")
        return match, path

    def _match(self, name: str) -> str | None:
        return name if name in self._files else _closest(name.lower(), self._files)

    def _hash(self, path: Path) -> str | None:
        """Return a file's hash; None, with a line on the console, if it is gone or broken since it was listed."""
        try:
            state = path.stat()
            key = (path, state.st_size, state.st_mtime_ns)
            if key not in self._hashes:
                self._hashes[key] = short_hash(path)
            return self._hashes[key]
        except OSError as error:
            log.warning("%s is left out, since it cannot be read (%s)", path, error.strerror or error)
            return None

    def _offer(self, name: str) -> str:
        import difflib

        if not self._files:
            return f"put one into {self._folders()[0]}"
        stems = {full.rpartition(" [")[0].lower(): full for full in self._files}
        wanted = name.rpartition(" [")[0].lower() or name.lower()
        near = difflib.get_close_matches(wanted, stems, n=NEAR, cutoff=0.4)
        if near:
            return f"did you mean {' or '.join(stems[each] for each in near)}?"
        return f"none of the {len(stems)} models here has such a name"


def _bare(name: str) -> str:
    """Return a model's name without quotes, and without the suffix of its file, which clients may send too."""
    return _SUFFIX.sub("", name[:LONGEST].strip().strip('"'))


def short_hash(path: Path) -> str:
    """Return 8 digits of the SHA-256 of 64 KiB at 1 MiB into the file."""
    with path.open("rb") as file:
        file.seek(HASH_OFFSET)
        return hashlib.sha256(file.read(HASH_LENGTH)).hexdigest()[:HASH_SHOWN]


def _closest(wanted: str, files: Mapping[str, Path]) -> str | None:
    """Return the name of the file that a text in lower case stands for. ModelError if several share that name."""
    by_stem = {full.rpartition(" [")[0].lower(): full for full in files}
    if wanted in by_stem:
        return by_stem[wanted]
    if named := meant_by(wanted, files):
        return _only(named, wanted)
    holding = sorted((stem for stem in by_stem if wanted in stem), key=len)
    if holding:
        shared = sharing(by_stem[holding[0]], files)
        return _only([full for full in shared if wanted in full.lower()], wanted)
    stem = wanted.rpartition(" [")[0]  # the hash in an old picture's text is that of another copy of the file
    return by_stem.get(stem) or _only(meant_by(stem, files), wanted)


def _only(names: Sequence[str], wanted: str) -> str | None:
    if len(names) > 1:
        more = f", or one of {len(names) - NEAR} more" if len(names) > NEAR else ""
        raise ModelError(f"'{shown(wanted)}' is the name of {len(names)} models: say {' or '.join(names[:NEAR])}{more}")
    return names[0] if names else None


def _files(folder: Path) -> Iterator[Path]:
    """Yield the model files of a folder and of those in it; what cannot be read is said on the console."""
    if not folder.is_dir():
        return
    try:
        found = [path for path in files_below(folder) if path.suffix.lower() in SUFFIXES or path.is_dir()]
    except OSError as error:
        log.warning("the folder %s cannot be read (%s): look at its rights", folder, error.strerror or error)
        return
    for path in found:
        if os.access(path, os.R_OK) and path.is_file():
            yield path
        else:
            log.warning("%s is left out, since it cannot be read: look at its rights, or at where its link leads", path)


def _order(path: Path) -> tuple[str, str]:
    return path.name.lower(), str(path)
