"""A unit as it was asked for, brought to where it can act: its model loaded, its picture read, its hint drawn."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ....core.base import LATENT, check_fits
from ....core.control import ControlModel
from ....units import infotext
from ....units.convention import chosen, doubt, said_by
from ....units.hint import fitting, mask_tensor
from ....units.request import AUTO, UnitRequest
from ....units.webui_fields import InputMode, UnitArgs, args_of, request_of
from ..host.unets import base_of
from . import preprocessing
from .inputs import Input, choose, seed_of
from .pictures import read_mask, rgba_pictures

if TYPE_CHECKING:
    from ....units.hint import Hint
    from .needs import Host, Services

log = logging.getLogger("controlstack")


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A unit whose model is loaded and whose hint is drawn, at the preprocessor's resolution."""

    args: UnitArgs
    request: UnitRequest
    kind: str  # the preprocessor's id
    model: ControlModel
    given: Input
    hint: Hint
    mask: Tensor | None


def prepare(services: Services, p: Any, unit: UnitArgs, index: int) -> Prepared:
    """Unit number `index` of a request, which has gone through `with_defaults`. ControlError for what cannot work."""
    host = services.host
    _, path = services.files.find(unit.model)
    preprocessor = preprocessing.lookup(unit.module)
    ignore_mask = bool(host.option("controlnet_ignore_noninpaint_mask", False))
    given = choose(unit, p, index, ignore_mask, preprocessor.takes_mask)
    model = _model(services, path)
    check_fits(model.name, model.base, base_of(host.unet))
    request = fitting(request_of(unit, image=given.picture, inpaint_mask=given.mask), model)
    request = replace(request, resize=given.resize)
    if warning := doubt(request, said_by(path), given.picture):
        log.warning(warning)
        p.comment(f"ControlNet: {warning}")
    hint = services.preprocess(request, given.picture, _first_size(p), seed_of(p), given.mask)
    region = None if unit.effective_region_mask is None else read_mask(unit.effective_region_mask)
    return Prepared(
        args=unit,
        request=request,
        kind=_kind(preprocessor.id, p),
        model=model,
        given=given,
        hint=hint,
        mask=None if region is None else mask_tensor(region),
    )


def write_text(services: Services, p: Any, units: Sequence[UnitArgs]) -> list[UnitArgs]:
    """Write the units into the text of a request's pictures, and return them as they run."""
    args = [preprocessing.with_defaults(_chosen(services, unit)) for unit in merged(units)]
    p.extra_generation_params.update(infotext.write(args, services.host.basis))
    return args


def _chosen(services: Services, unit: UnitArgs) -> UnitArgs:
    """Return the unit with the preprocessor that its model names, where it asks for that."""
    if unit.module.strip().lower() != AUTO and not preprocessing.lookup(unit.module).by_model:
        return unit
    _, path = services.files.find(unit.model)
    request = chosen(request_of(unit), said_by(path), _model(services, path).embedding)
    args = args_of(request)
    numbers = {name: getattr(args, name) for name in ("module", "threshold_a", "threshold_b", "parameters")}
    return replace(unit, **numbers)


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


def _kind(preprocessor: str, p: Any) -> str:
    """The preprocessor's id. Where img2img itself paints, what lies outside its mask comes back anyway."""
    paints = preprocessor == "inpaint_only" and getattr(p, "image_mask", None) is not None
    return "inpaint_global_harmonious" if paints else preprocessor


def _first_size(p: Any) -> tuple[int, int]:
    """(height, width) of the first pass: pixel perfect looks at nothing else."""
    return p.height // LATENT * LATENT, p.width // LATENT * LATENT


def _model(services: Services, path: Path) -> ControlModel:
    host = services.host
    return services.models.get(path, host.dtype, host.checkpoint, lambda: _base_state(host))


def _base_state(host: Host) -> Mapping[str, Tensor]:
    return host.unet.state_dict()
