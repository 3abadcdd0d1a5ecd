"""Where models of the catalogue and of the hub lie here, and the sentence that says which command gets them.

Nothing is fetched here. A model is looked for among those that `controlstack get` fetched, then in the cache of
huggingface_hub, where other programs may have put it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from ...core.errors import FileError
from ...core.files import path_of, read_json
from ...preprocessors.networks.store import default_folder
from .catalogue import find_known

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")  # owner/name
CONTENTS = "controlstack-files.json"  # in a folder that was fetched: the files that belong to it
MODEL_FOLDER = ("model_index.json", "config.json")  # one of them makes a snapshot of the hub a model


def is_name(text: str) -> bool:
    """Return whether a text names a model of the catalogue, or one of the hub as `owner/name`."""
    return find_known(text) is not None or (NAME.fullmatch(text) is not None and ".." not in text)


def models_folder() -> Path:
    """Return where models that `controlstack get` fetches are kept."""
    return default_folder().parent / "models"


def find_model(name: str) -> Path | None:
    """Return the file or folder of a named model, complete; None if it is not here."""
    known = find_known(name)
    if known is not None:
        inside = (models_folder() / known.repository / known.file, *_snapshots(known.repository, known.file))
        return next((path for path in inside if path.is_file()), None)
    own = models_folder() / name
    if _is_complete(own):
        return own
    return next((path for path in _snapshots(name) if any((path / each).is_file() for each in MODEL_FOLDER)), None)


def located(said: Path, what: str) -> Path:
    """Return the path of what somebody said: a path that is there, or the name of a model that is here.

    FileError for anything else; what: what it should be, for the message.
    """
    there = path_of(str(said))
    if there.exists():
        return there
    name = said.as_posix()
    if not is_name(name):
        raise FileError(f"there is no {what} {said}: check the path")
    found = find_model(name)
    if found is None:
        raise FileError(f"there is no {what} {said}, and no model of this name is here: run 'controlstack get {name}'")
    return found


def _is_complete(folder: Path) -> bool:
    try:
        names = read_json(folder / CONTENTS, "list of files")
    except FileError:
        return False
    return isinstance(names, list) and bool(names) and all((folder / str(name)).is_file() for name in names)


def _snapshots(repository: str, inside: str = "") -> Iterator[Path]:
    """Yield where huggingface_hub keeps a repository: models--OWNER--NAME/snapshots/COMMIT."""
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    hub = Path(os.environ.get("HF_HUB_CACHE") or home / "hub")
    folder = hub / f"models--{repository.replace('/', '--')}" / "snapshots"
    if folder.is_dir():
        yield from (each / inside for each in sorted(folder.iterdir()))
