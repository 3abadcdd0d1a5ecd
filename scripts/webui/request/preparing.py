"""A unit as it was asked for, brought to where it can act: its model loaded, its picture read, its hint drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ....core.control import ControlModel
from ....core.network.base import LATENT, check_fits
from ....models.reference import ReferenceModel
from ....units.convention import chosen, doubt, said_by
from ....units.hint import fitting, mask_tensor
from ....units.request import UnitRequest
from ....units.webui import infotext
from ....units.webui.fields import InputMode, UnitArgs, args_of, is_auto, request_of
from ....units.webui.references import is_reference
from ..host.unet.unets import base_of
from ..pictures.inputs import Input, choose, seed_of
from ..pictures.reading import read_mask, rgba_pictures
from . import preprocessing
from .saying import about_unit, warn

if TYPE_CHECKING:
    from ....units.hint import Hint
    from .needs import Host, Services


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
    """Return unit `index` of those that are on, which has gone through `with_defaults`, ready to act.

    ControlError for what cannot work.
    """
    with about_unit(unit.number):
        return _prepare(services, p, unit, index)


def _prepare(services: Services, p: Any, unit: UnitArgs, index: int) -> Prepared:
    host = services.host
    preprocessor = preprocessing.lookup(unit.module)
    path = None if is_reference(preprocessor) else services.files.find(unit.model)[1]  # a reference has no file
    ignore_mask = bool(services.program.option("controlnet_ignore_noninpaint_mask", False))
    given = choose(unit, p, index, ignore_mask, preprocessor.takes_mask)
    request = request_of(unit, image=given.picture, inpaint_mask=given.mask)
    model = ReferenceModel(request.model, host.unet.state_dict()) if path is None else _model(services, path)
    check_fits(model.name, model.base, base_of(host.unet))
    request = replace(fitting(request, model), resize=given.resize)
    if warning := doubt(request, "" if path is None else said_by(path), given.picture):
        warn(p, f"unit {unit.number}: {warning}")
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
    args = [_as_it_runs(services, unit) for unit in merged(units)]
    p.extra_generation_params.update(infotext.write(args, services.program.basis))
    return args


def _as_it_runs(services: Services, unit: UnitArgs) -> UnitArgs:
    with about_unit(unit.number):
        return preprocessing.with_defaults(by_file(services, unit))


def by_file(services: Services, unit: UnitArgs) -> UnitArgs:
    """Return the unit with the preprocessor that its model's file names, where it asks for that."""
    if not is_auto(unit.module) and not preprocessing.lookup(unit.module).by_model:
        return unit
    _, path = services.files.find(unit.model)
    says = said_by(path)
    request = chosen(request_of(unit), says, None if says else _model(services, path).embedding)
    args = args_of(request)
    numbers = {name: getattr(args, name) for name in ("module", "threshold_a", "threshold_b", "parameters")}
    return replace(unit, **numbers)


def merged(units: Sequence[UnitArgs]) -> list[UnitArgs]:
    """Return units with several pictures as so many units with an even share of the weight each."""
    result: list[UnitArgs] = []
    for unit in units:
        with about_unit(unit.number):
            pictures = rgba_pictures(unit.image, unit.mask) if unit.input_mode is InputMode.MERGE else None
        if not pictures:
            result.append(unit)
            continue
        share = unit.weight / len(pictures)
        parts = ({"image": each[..., :3], "mask": each[..., 3]} for each in pictures)
        result += [replace(unit, image=part, mask=None, weight=share, input_mode=InputMode.SIMPLE) for part in parts]
    return result


def _kind(preprocessor: str, p: Any) -> str:
    """Return the preprocessor's id. Where img2img itself paints, what lies outside its mask comes back anyway."""
    paints = preprocessor == "inpaint_only" and getattr(p, "image_mask", None) is not None
    return "inpaint_global_harmonious" if paints else preprocessor


def _first_size(p: Any) -> tuple[int, int]:
    """Return (height, width) of the first pass: pixel perfect looks at nothing else."""
    return p.height // LATENT * LATENT, p.width // LATENT * LATENT


def _model(services: Services, path: Path) -> ControlModel:
    host = services.host
    return services.models.get(path, host.dtype, host.checkpoint, lambda: _base_state(host))


def _base_state(host: Host) -> Mapping[str, Tensor]:
    return host.unet.state_dict()
