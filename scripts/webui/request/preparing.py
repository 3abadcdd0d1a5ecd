"""A unit as it was asked for, brought to where it can act: its model loaded, its picture read, its hint drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ....core.control import ControlModel
from ....core.errors import UnitError
from ....core.network.base import LATENT
from ....models.families.ip_adapter.model import MEAN, PICTURES
from ....models.fileless.making import make_fileless
from ....preprocessors import encoding
from ....units.convention import chosen, said_by, warning
from ....units.hint import fitting, mask_tensor
from ....units.options import bound
from ....units.request import UnitRequest
from ....units.webui import infotext
from ....units.webui.fields import InputMode, UnitArgs, args_of, is_auto, request_of
from ....units.webui.fileless import is_model
from ..host.unet.kinds import base_of
from ..pictures.embeddings import read_embeddings
from ..pictures.inputs import Input, choose, seed_of
from ..pictures.reading import count_pictures, read_mask, rgba_pictures
from . import preprocessing
from .saying import about_unit, warn

if TYPE_CHECKING:
    from ....units.hint import Hint
    from ..pictures.reading import Image
    from .needs import Host, Services

IP_ADAPTER = "IP-Adapter"  # the control type whose models take several pictures
GREY_SIDE = 64


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A unit whose model is loaded and whose hint is drawn, at the preprocessor's resolution."""

    args: UnitArgs
    request: UnitRequest
    kind: str  # the preprocessor's id
    model: ControlModel
    given: Input  # its picture; of several, the first one
    shown: tuple[Image, ...]  # what was looked at, where the hint is no picture
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
    path = None if is_model(preprocessor) else services.files.find(unit.model)[1]  # some models have none
    ignore_mask = bool(services.program.option("controlnet_ignore_noninpaint_mask", False))
    sent = unit.ipadapter_input is not None
    inputs = [] if sent else [choose(each, p, index, ignore_mask, preprocessor.takes_mask) for each in _parts(unit)]
    given = Input(_grey(), unit.resize_mode) if sent else inputs[0]
    request = request_of(unit, image=given.picture, inpaint_mask=given.mask)
    model = make_fileless(request.model, host.unet.state_dict()) if path is None else _model(services, path)
    model = bound(request, model)  # what it reads depends on what it is told
    model.check_base(base_of(host.unet))
    request = replace(request if sent else fitting(request, model), resize=given.resize)
    says = "" if path is None else said_by(path)
    if not sent and (said := warning(request, says, given.picture, model.offers)):
        warn(p, f"unit {unit.number}: {said}")
    several = PICTURES in {each.name for each in model.offers}
    if len(inputs) > 1 and not several:
        raise UnitError(f"it has {len(inputs)} pictures: give one, or set input_mode to merge")
    if several and (len(inputs) > 1 or sent):  # as in sd-webui-controlnet: the mean, unless the unit says otherwise
        request = replace(request, options={PICTURES: MEAN, **request.options})

    def draw(each: Input) -> Hint:
        return services.preprocess(request, each.picture, _first_size(p), seed_of(p), each.mask)

    hint = _sent(services, unit, model) if sent else _joined([draw(each) for each in inputs])
    region = None if unit.effective_region_mask is None else read_mask(unit.effective_region_mask)
    return Prepared(
        args=unit,
        request=request,
        kind=_kind(preprocessor.id, p),
        model=model,
        given=given,
        shown=tuple(each.picture for each in inputs),
        hint=hint,
        mask=None if region is None else mask_tensor(region),
    )


def write_text(services: Services, p: Any, units: Sequence[UnitArgs]) -> list[UnitArgs]:
    """Write the units into the text of a request's pictures, and return them as they run."""
    args = [_as_it_runs(services, unit) for unit in merged(services, units)]
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
    request = request_of(unit)
    request = chosen(request, says, None if says else bound(request, _model(services, path)).embedding)
    args = args_of(request)
    numbers = {name: getattr(args, name) for name in ("module", "threshold_a", "threshold_b", "parameters")}
    return replace(unit, **numbers)


def merged(services: Services, units: Sequence[UnitArgs]) -> list[UnitArgs]:
    """Return units with several pictures as so many units with an even share of the weight each.

    One whose model takes several pictures stays one, as in sd-webui-controlnet.
    """
    result: list[UnitArgs] = []
    for unit in units:
        parts = [unit]
        with about_unit(unit.number):
            if unit.input_mode is InputMode.MERGE:
                parts = [replace(unit, input_mode=InputMode.SIMPLE)] if _takes_several(services, unit) else _parts(unit)
        result += [replace(part, weight=unit.weight / len(parts)) for part in parts]
    return result


def _takes_several(services: Services, unit: UnitArgs) -> bool:
    return IP_ADAPTER in preprocessing.lookup(by_file(services, unit).module).control_types


def _parts(unit: UnitArgs) -> list[UnitArgs]:
    """Return a unit with several pictures as one for each picture; with one or none, as it is."""
    if count_pictures(unit.image, unit.mask) < 2:
        return [unit]
    pictures = rgba_pictures(unit.image, unit.mask) or []
    images = ({"image": each[..., :3], "mask": each[..., 3]} for each in pictures)
    return [replace(unit, image=image, mask=None, input_mode=InputMode.SIMPLE) for image in images]


def _joined(hints: Sequence[Hint]) -> Hint:
    """Return the hints of a unit's pictures as one: several are what an encoder saw, [1, T, D] each."""
    return torch.cat([each for each in hints if isinstance(each, Tensor)]) if len(hints) > 1 else hints[0]


def _sent(services: Services, unit: UnitArgs, model: ControlModel) -> Tensor:
    """Return what a client has sent in place of pictures, as the hint of a model."""

    def grey() -> Tensor:
        assert model.embedding is not None
        seen = services.preprocess(UnitRequest(preprocessor=encoding(model.embedding).id), _grey())
        assert isinstance(seen, Tensor)
        return seen.chunk(2, dim=-1)[1]

    return read_embeddings(unit.ipadapter_input, model, grey)


def _grey() -> Image:
    """Return a small grey picture [H, W, 3], which stands for none."""
    import numpy as np

    return np.full((GREY_SIDE, GREY_SIDE, 3), 128, np.uint8)


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
