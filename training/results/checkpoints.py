"""Checkpoints: one file each, so that there is always one whole state to go on from."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, cast

import torch

from ...core.errors import HostError
from ...core.files import replacing
from ...models.guard import one_line


class _Told:
    """A file that remembers why it could not be written to: PyTorch's writer tells something else then."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self.fault = file, ""

    def write(self, data: bytes) -> int:
        """Write bytes; return how many."""
        try:
            return self._file.write(data)
        except OSError as error:
            self.fault = error.strerror or str(error)
            raise

    def flush(self) -> None:
        """Hand on what was written."""
        self._file.flush()


def write_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Write a state, whole or not at all, and to the disk. HostError if it cannot be written."""
    told = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as fresh, fresh.open("xb") as file:
            told = _Told(file)
            torch.save(dict(state), cast(Any, told))
            file.flush()
            os.fsync(file.fileno())
    except (OSError, RuntimeError) as error:  # RuntimeError: of PyTorch's writer, on a full disk
        reason = (told.fault if told is not None else "") or one_line(error)
        raise HostError(
            f"cannot write the checkpoint '{path}': {reason}: make room for it, or choose another place"
        ) from error


def read_checkpoint(path: Path, holds: str = "losses") -> dict[str, Any]:
    """Return a state, on the CPU. HostError for what is no checkpoint. holds: a name that every such state has."""
    if not path.is_file():
        raise HostError(f"there is no checkpoint '{path}' to go on from: leave --resume out")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged file makes PyTorch raise
        raise HostError(f"'{path}' is a damaged checkpoint ({one_line(error)}): start from the beginning") from error
    if not isinstance(state, dict) or holds not in state:
        raise HostError(f"'{path}' is no checkpoint of such a run: leave --resume out to start from the beginning")
    return state


def snapshots(out: Path) -> list[Path]:
    """Return the snapshots of a training, the oldest first: OUT.snapshots/NAME-000500.safetensors."""
    folder = out.with_suffix(".snapshots")
    found = folder.glob(f"{out.stem}-*.safetensors") if folder.is_dir() else []
    own = [path for path in found if _number(out, path).isdigit()]  # others are companions
    return sorted(own, key=lambda path: int(_number(out, path)))


def _number(out: Path, path: Path) -> str:
    return path.stem.removeprefix(f"{out.stem}-")


def snapshot_path(out: Path, step: int) -> Path:
    """Return where the snapshot after a step lies."""
    return out.with_suffix(".snapshots") / f"{out.stem}-{step:06d}.safetensors"


def keep_last(out: Path, count: int) -> None:
    """Remove all but the last `count` snapshots, with what lies beside them."""
    for path in snapshots(out)[:-count]:
        for each in path.parent.glob(f"{path.stem}*"):
            if each.stem == path.stem or each.stem.startswith(f"{path.stem}_"):  # its companion
                each.unlink(missing_ok=True)
