"""A unit as it was asked for, brought to where it can act: its model loaded, its picture read, its hint drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ....core import infotext
from ....core.base import LATENT, check_fits
from ....core.control import ControlModel, HintSpace
from ....core.errors import UnsupportedModelError
from ....core.fields import InputMode, UnitArgs
from ....core.resize import pixel_perfect
from ..host.unets import base_of
from . import preprocessing
from .inputs import Input, choose, seed_of
from .pictures import read_mask, rgba_pictures

if TYPE_CHECKING:
    from .needs import Host, Services
    from .pictures import Image


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A unit whose model is loaded and whose hint is drawn, at the preprocessor's resolution."""

    args: UnitArgs
    kind: str  # the preprocessor's id
    model: ControlModel
    given: Input
    hint: Image
    mask: Tensor | None


def prepare(services: Services, p: Any, unit: UnitArgs, index: int) -> Prepared:
    """Unit number `index` of a request, which has gone through `with_defaults`. ControlError for what cannot work."""
    host = services.host
    _, path = services.files.find(unit.model)
    preprocessor = preprocessing.lookup(unit.module)
    ignore_mask = bool(host.option("controlnet_ignore_noninpaint_mask", False))
    given = choose(unit, p, index, ignore_mask, preprocessor.takes_mask)
    model = services.models.get(path, host.dtype, host.checkpoint, lambda: _base_state(host))
    check_fits(model.name, model.base, base_of(host.unet))
    if model.hint_space is HintSpace.EMBEDDING:
        raise UnsupportedModelError(
            f"'{model.name}' is a style adapter and reads what CLIP sees in a picture, which no preprocessor here "
            "makes: choose a model that reads the picture itself"
        )
    size = (given.picture.shape[0], given.picture.shape[1])
    resolution = pixel_perfect(size, _first_size(p), given.resize) if unit.pixel_perfect else None
    hint = services.preprocess(unit, given.picture, resolution, seed_of(p), given.mask)
    region = None if unit.effective_region_mask is None else read_mask(unit.effective_region_mask)
    mask = None if region is None else as_tensor(region[..., None])
    return Prepared(args=unit, kind=_kind(preprocessor.id, p), model=model, given=given, hint=hint, mask=mask)


def write_text(services: Services, p: Any, units: Sequence[UnitArgs]) -> list[UnitArgs]:
    """The units into the text of a request's pictures; returned as they run."""
    args = [preprocessing.with_defaults(unit) for unit in merged(units)]
    p.extra_generation_params.update(infotext.write(args, services.host.basis))
    return args


def merged(units: Sequence[UnitArgs]) -> list[UnitArgs]:
    """Units with several pictures as so many units with an even share of the weight each."""
    result: list[UnitArgs] = []
    for unit in units:
        pictures = rgba_pictures(unit.image, unit.mask) if unit.input_mode is InputMode.MERGE else None
        if not pictures:
            result.append(unit)
            continue
        share = unit.weight / len(pictures)
        parts = ({"image": each[..., :3], "mask": each[..., 3]} for each in pictures)
        result += [replace(unit, image=part, mask=None, weight=share, input_mode=InputMode.SIMPLE) for part in parts]
    return result


def as_tensor(picture: Image) -> Tensor:
    """[H, W, C] in 0..255 -> float [1, C, H, W] in 0..1."""
    return torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].float() / 255


def _kind(preprocessor: str, p: Any) -> str:
    """The preprocessor's id. Where img2img itself paints, what lies outside its mask comes back anyway."""
    paints = preprocessor == "inpaint_only" and getattr(p, "image_mask", None) is not None
    return "inpaint_global_harmonious" if paints else preprocessor


def _first_size(p: Any) -> tuple[int, int]:
    """(height, width) of the first pass: pixel perfect looks at nothing else."""
    return p.height // LATENT * LATENT, p.width // LATENT * LATENT


def _base_state(host: Host) -> Mapping[str, Tensor]:
    return host.unet.state_dict()
