"""A request as plain values for a picture's metadata, and back: what JSON can hold, complete, with pictures in it.

Pictures that came from files are named by their path; pixels are written whole, as PNG in base64. Whoever writes the
record of a picture adds digests of files beside it.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from ..core.errors import UnitError
from ..preprocessors.images import decode_pixels
from .request import FIELDS, UnitRequest

PNG = "png"  # key of pixels
PICTURES = {"image": 3, "effect_mask": 2, "inpaint_mask": 2}  # the rank of one picture


def to_record(request: UnitRequest) -> dict[str, Any]:
    """Return the fields of a request that differ from their defaults, as JSON can hold them."""
    said = {name: getattr(request, name) for name in FIELDS}
    return {name: _plain(name, value) for name, value in said.items() if _differs(value, FIELDS[name].default)}


def from_record(record: Mapping[str, Any]) -> UnitRequest:
    """Return the request of a record. UnitError for unknown fields and wrong values."""
    values: dict[str, Any] = {}
    for name, value in record.items():
        if name not in FIELDS:
            raise UnitError(f"the record of a unit has '{name}', which no unit has: it was written by a newer version")
        values[name] = _checked(name, _picture(name, value)) if name in PICTURES else FIELDS[name].read(name, value)
    return UnitRequest(**values)


def _differs(value: object, default: object) -> bool:
    return hasattr(value, "shape") or value != default


def _plain(name: str, value: Any) -> Any:
    if name in PICTURES:
        return _plain_picture(value, PICTURES[name])
    if isinstance(value, (bool, int, float, str)):
        return value
    return dict(cast("Mapping[str, Any]", value)) if isinstance(value, Mapping) else FIELDS[name].write(value)


def _plain_picture(value: Any, rank: int) -> Any:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple):
        return list(map(str, cast("tuple[Path, ...]", value)))
    return [plain_pixels(each) for each in value] if value.ndim > rank else plain_pixels(value)


def plain_pixels(picture: Any) -> dict[str, str]:
    """Return pixels, uint8 [H, W, 3] or [H, W], as JSON can hold them; `pixels_of` reads them."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return {PNG: base64.b64encode(buffer.getvalue()).decode("ascii")}


def _picture(name: str, value: Any) -> Any:
    if isinstance(value, str):
        return Path(value)
    import numpy as np

    if isinstance(value, list) and all(isinstance(each, str) for each in cast("list[Any]", value)):
        return tuple(map(Path, cast("list[str]", value)))
    if isinstance(value, list):
        return np.stack([pixels_of(name, each) for each in cast("list[Any]", value)])
    return pixels_of(name, value)


def _checked(name: str, picture: Any) -> Any:
    """Return the picture; UnitError for pixels of another rank than the field has."""
    rank = PICTURES[name]
    if hasattr(picture, "ndim") and picture.ndim not in (rank, rank + 1):
        raise UnitError(f"the record of a unit has {list(picture.shape)} in '{name}', expected {rank} axes or a batch")
    return picture


def pixels_of(name: str, value: Any) -> Any:
    """Return the pixels of `plain_pixels`. UnitError or HintError, which name the field, for anything else."""
    try:
        data = base64.b64decode(value[PNG], validate=True)
    except (KeyError, TypeError, ValueError) as error:
        raise UnitError(f"the record of a unit has no picture in '{name}': {error}") from error
    return decode_pixels(data, f"the picture in '{name}' of a record")
