"""Units as text: `image=edges.png,preprocessor=canny,model=canny.safetensors,weight=0.8` -> a `ControlUnit`.

A value may hold commas: a new pair begins only where a known name and an equals sign follow.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from ..core.control import ControlModel
from ..core.errors import UnitError
from ..core.resize import ResizeMode, pixel_perfect
from ..core.schedule import RangeBasis, Schedule
from ..core.unit import ControlMode, ControlUnit
from ..models.registry import load_control_model
from ..preprocessors import RESOLUTION, find
from ..preprocessors.images import read_image, read_mask

Image = NDArray[np.uint8]
Choice = TypeVar("Choice", bound=Enum)

OWN = (  # names of a unit's settings; others belong to its preprocessor
    "image",
    "preprocessor",
    "model",
    "weight",
    "start",
    "end",
    "basis",
    "mode",
    "resize",
    "mask",
    "block_weights",
    "pixel_perfect",
    "resolution",
)
YES, NO = ("yes", "true", "1"), ("no", "false", "0")
RESIZE_NAMES = {"stretch": "just resize", "crop": "crop and resize", "fill": "resize and fill"}


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitText:
    """A unit as the command line has it, checked but not loaded."""

    image: Path
    model: Path
    preprocessor: str
    parameters: Mapping[str, float]
    resolution: int | None
    pixel_perfect: bool
    weight: float
    schedule: Schedule
    mode: ControlMode
    resize: ResizeMode
    mask: Path | None
    block_weights: tuple[float, ...] | None
    text: str


@dataclass(frozen=True, slots=True)
class Loaded:
    """A unit ready to run, with what people want to see beside the result."""

    unit: ControlUnit
    image: Image
    hint: Image
    text: str


def parse_unit(text: str) -> UnitText:
    """Read a unit; UnitError says what is unknown, missing or out of range."""
    pairs = _pairs(text)
    for name in ("image", "model"):
        if not pairs.get(name):
            raise UnitError(f"the unit '{text}' has no {name}: add {name}=FILE")
    preprocessor = find(pairs.get("preprocessor", "none"))
    own = {name: value for name, value in pairs.items() if name in OWN}
    rest = {name: _number(name, value) for name, value in pairs.items() if name not in OWN}
    preprocessor.check_gives_hint()
    preprocessor.settings(rest)
    weights = own.get("block_weights")
    return UnitText(
        image=Path(own["image"]),
        model=Path(own["model"]),
        preprocessor=preprocessor.id,
        parameters=rest,
        resolution=_resolution(preprocessor.id, own["resolution"]) if "resolution" in own else None,
        pixel_perfect=_yes("pixel_perfect", own.get("pixel_perfect", "no")),
        weight=_number("weight", own.get("weight", "1")),
        schedule=Schedule(
            start=_number("start", own.get("start", "0")),
            end=_number("end", own.get("end", "1")),
            basis=_choice(RangeBasis, "basis", own.get("basis", "steps")),
        ),
        mode=_choice(ControlMode, "mode", own.get("mode", "balanced")),
        resize=_choice(ResizeMode, "resize", RESIZE_NAMES.get(own.get("resize", "crop"), own.get("resize", "crop"))),
        mask=Path(own["mask"]) if "mask" in own else None,
        block_weights=None if weights is None else _numbers("block_weights", weights),
        text=text,
    )


def load_units(
    texts: Sequence[UnitText], size: tuple[int, int], dtype: torch.dtype, base_state: Mapping[str, Any] | None = None
) -> list[Loaded]:
    """Read the pictures, run the preprocessors, load each model file once.

    size: (height, width) of the result. base_state: the base U-Net's weights by bare ldm names, for "difference" files.
    """
    models: dict[Path, ControlModel] = {}
    for text in texts:
        key = text.model.resolve()
        if key not in models:
            models[key] = load_control_model(text.model, dtype=dtype, base_state=base_state)
    return [_load(text, models[text.model.resolve()], size) for text in texts]


def _load(text: UnitText, model: ControlModel, size: tuple[int, int]) -> Loaded:
    image = read_image(text.image)
    height, width = image.shape[:2]
    resolution = pixel_perfect((height, width), size, text.resize) if text.pixel_perfect else text.resolution
    parameters: dict[str, Any] = dict(text.parameters)
    hint = find(text.preprocessor)(image, resolution=resolution, **parameters)
    mask = None if text.mask is None else tensor_of(read_mask(text.mask)[..., None])
    unit = ControlUnit(
        model=model,
        hint=tensor_of(hint),
        weight=text.weight,
        schedule=text.schedule,
        mode=text.mode,
        resize=text.resize,
        mask=mask,
        block_weights=text.block_weights,
    )
    return Loaded(unit, image, hint, text.text)


def tensor_of(image: Image) -> torch.Tensor:
    """uint8 [H, W, C] or [N, H, W, C] -> float [N, C, H, W] in 0..1."""
    batch = image if image.ndim == 4 else image[None]
    return torch.from_numpy(np.ascontiguousarray(batch)).permute(0, 3, 1, 2).float() / 255


def parse_parameters(pairs: Sequence[str]) -> dict[str, float]:
    """`name=value` texts of a preprocessor's parameters."""
    split = [pair.partition("=") for pair in pairs]
    if wrong := [pair for pair, (_, equals, _) in zip(pairs, split, strict=True) if not equals]:
        raise UnitError(f"'{wrong[0]}' is no name=value")
    return {name.strip(): _number(name, value) for name, _, value in split}


def _pairs(text: str) -> dict[str, str]:
    names: dict[str, str] = {}
    for part in re.split(r",(?=[A-Za-z_]+=)", text):
        name, equals, value = part.partition("=")
        name = name.strip()
        if not equals:
            raise UnitError(f"'{part}' in the unit '{text}' is no name=value")
        if name in names:
            raise UnitError(f"the unit '{text}' has {name} twice")
        names[name] = value.strip()
    preprocessor = find(names.get("preprocessor", "none"))
    known = [*OWN, *(parameter.name for parameter in preprocessor.parameters)]
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=2) or known
            raise UnitError(f"a unit with {preprocessor.id} has no '{name}': did you mean {' or '.join(near)}?")
    return names


def _number(name: str, value: str) -> float:
    try:
        return float(value) if "." in value or "e" in value.lower() or "n" in value.lower() else int(value)
    except ValueError:
        raise UnitError(f"{name} is '{value}', expected a number") from None


def _resolution(preprocessor: str, value: str) -> int:
    return int(RESOLUTION.check(_number("resolution", value), preprocessor))


def _yes(name: str, value: str) -> bool:
    if value.lower() not in YES + NO:
        raise UnitError(f"{name} is '{value}', expected one of {', '.join(YES + NO)}")
    return value.lower() in YES


def _numbers(name: str, value: str) -> tuple[float, ...]:
    return tuple(_number(name, each) for each in re.split(r"[,;\s]+", value.strip()))


def _choice(kind: type[Choice], name: str, value: str) -> Choice:
    for member in kind:
        if member.value == value.lower():
            return member
    choices = ", ".join(str(member.value) for member in kind)
    raise UnitError(f"{name} is '{value}', expected one of {choices}")
