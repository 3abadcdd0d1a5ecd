"""`controlstack again PICTURE`: draw a picture again from the record in it, bit for bit on the same machine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from ...core.errors import HostError
from ...pipelines.bases import Base, Offload, UnetState, load_base
from ...pipelines.drawing import generate
from ...preprocessors.images import make_folder
from ...units.ready import ready
from ..record import Remembered, check_files, read_picture_record, write_pictures
from ..units import load_model


def draw_again(
    picture: Path,
    output: Path,
    *,
    base: Path | None = None,
    device: str | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[Path]:
    """Draw the request of a picture again and write all its pictures; return their paths.

    base: another place of the base model. device: None is the one that it was drawn on. Raises FileError where a file
    is gone or has changed, before anything is loaded.
    """
    remembered = read_picture_record(picture)
    check_files(remembered, replaced=[remembered.base["path"]] if base is not None else [])
    loaded = _base(remembered, base, device)
    size = (remembered.request.height, remembered.request.width)
    state = UnetState(lambda: loaded)
    units = [
        ready(said, load_model(said.model, getattr(torch, dtype), state), size).unit
        for said, dtype in zip(remembered.units, remembered.dtypes, strict=True)
    ]
    result = generate(loaded, remembered.request, units, progress)
    make_folder(output)
    return write_pictures(output, loaded, remembered.request, units, result)


def _base(remembered: Remembered, other: Path | None, device: str | None) -> Base:
    said = remembered.base
    if other is None and not said["path"]:
        raise HostError("the picture does not say where its base model lies: give --base")
    return load_base(
        other or Path(said["path"]),
        dtype=getattr(torch, said["dtype"]),
        device=device or said["device"],
        offload=Offload(said["offload"]),
        prediction=said.get("prediction"),
    )
