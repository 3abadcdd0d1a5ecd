"""Files and folders that are never half-written, and that others may read."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor

from ...core.errors import HostError
from ...core.files import replacing

ASIDE = ".old"  # suffix of a folder that is about to be replaced


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file, whole or not at all. HostError if it cannot be written, such as on a full disk."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as fresh:
            fresh.touch()
            mode = fresh.stat().st_mode  # as the user's own files have it; the library's are private
            save_file(dict(tensors), fresh, dict(metadata))
            fresh.chmod(mode)
    except (OSError, SafetensorError) as error:
        raise HostError(f"cannot write '{path}': {error}") from error


def write_text(path: Path, text: str) -> None:
    """Write a text in UTF-8, whole or not at all. HostError if it cannot be written."""
    try:
        with replacing(path) as fresh:
            fresh.write_text(text, encoding="utf-8")
    except OSError as error:
        raise HostError(f"cannot write '{path}': {error.strerror or error}") from error


def check_new(path: Path, going_on: str = "") -> None:
    """Raise HostError for a result that is there already: it took long to make, so nothing replaces it unasked.

    going_on: what to say instead in order to go on with it.
    """
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        instead = f", or {going_on}" if going_on else ""
        raise HostError(f"'{path}' is there already: give another name as --out, or move it away{instead}")


def replace_folder(folder: Path, save: Callable[[Path], object]) -> None:
    """Save beside the folder, then swap the two, so that nobody finds it half-written.

    Whatever stops the swap, one whole folder is left: `recover` finds it. HostError if a file has that name.
    """
    if folder.is_file():
        raise HostError(f"'{folder}' is a file, expected the name of a folder: give another name")
    fresh, aside = folder.with_suffix(".new"), folder.with_suffix(ASIDE)
    recover(folder)
    shutil.rmtree(fresh, ignore_errors=True)
    save(fresh)
    if folder.exists():
        os.replace(folder, aside)  # noqa: PTH105 - Path.replace does not say that it is atomic
    os.replace(fresh, folder)  # noqa: PTH105
    shutil.rmtree(aside, ignore_errors=True)


def recover(folder: Path) -> None:
    """Put back a folder whose replacement was stopped half-way."""
    aside = folder.with_suffix(ASIDE)
    if aside.exists() and not folder.exists():
        os.replace(aside, folder)  # noqa: PTH105
    shutil.rmtree(aside, ignore_errors=True)
