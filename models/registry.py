"""Which family a file belongs to, decided by names and shapes and never by the file's name; and its way into a unit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..core.control import ControlModel
from ..core.errors import ModelError, UnsupportedModelError
from ..core.network.base import Base
from ..core.options import Option
from .families import (
    control_lora,
    controlnet_lite,
    controlnet_xs,
    controlnext,
    ctrlora,
    fooocus,
    lllite,
    t2i_adapter,
    union,
)
from .families.controlnet import family as controlnet
from .families.ip_adapter import family as ip_adapter
from .families.lllite_anima import family as lllite_anima
from .families.uni import family as uni
from .family import Description, Family, Shapes
from .files.loading import Header, ModelFile, open_model, read_header
from .files.precision import check_quantised
from .files.sources import read_settings
from .guard import guard, naming
from .layers import STANDARD, Kit
from .names import below, unwrapped
from .others import control_of_others, no_control

REGISTRY: tuple[Family[Any, Any], ...] = (
    controlnet.FAMILY,
    controlnet_lite.FAMILY,
    controlnet_xs.FAMILY,
    union.FAMILY,
    uni.FAMILY,
    t2i_adapter.FAMILY,
    t2i_adapter.STYLE_FAMILY,
    controlnext.FAMILY,
    ip_adapter.FAMILY,
    ip_adapter.FACE_ID_FAMILY,
    ip_adapter.INSTANT_ID_FAMILY,
    control_lora.FAMILY,
    ctrlora.FAMILY,
    lllite.FAMILY,
    lllite_anima.FAMILY,
    fooocus.FAMILY,
)


def identify(header: Header) -> Family[Any, Any]:
    """Return the one family that recognises a file; UnsupportedModelError says what the file is instead."""
    return _recognise(header)[0]


def reads_base(header: Header) -> bool:
    """Return whether loading a file looks at the weights of its base model."""
    family, prefix = _recognise(header)
    return family.reads_base(below(header.shapes, prefix))


def made_for(header: Header) -> Base:
    """Return what base model a file was made for."""
    family, prefix = _recognise(header)
    return family.made_for(_below(header, prefix))


def offered(path: Path) -> tuple[Option, ...]:
    """Return what units may tell the control model of a file; of a safetensors file only the table is read."""
    return offered_by(read_header(path))


def offered_by(header: Header) -> tuple[Option, ...]:
    """Return what units may tell the control model of a file with this header."""
    family, prefix = _recognise(header)
    return family.offered(_below(header, prefix))


def inspect(path: Path, settings: Mapping[str, object] | None = None) -> Description:
    """Describe a control model file; of a safetensors file only the table is read. settings: the user's word."""
    header = read_header(path)
    family, prefix = _recognise(header)
    with naming(header.name):
        return family.describe(_below(header, prefix), settings)


def outline(shapes: Shapes) -> ControlModel | None:
    """Return what a network with these shapes promises (base, points, soft weights), without its weights.

    For control networks that a host has loaded by its own means: the answer cannot compute. None: not of ours.
    """
    try:
        with guard("the control network"):
            found = [family for family in REGISTRY if family.detect(shapes)]
            return found[0].outline(shapes) if len(found) == 1 and not control_of_others(shapes) else None
    except ModelError:  # a relative, whose points are not known here
        return None


def load_control_model(
    path: Path,
    *,
    settings: Mapping[str, object] | None = None,
    base_state: Mapping[str, Tensor] | None = None,
    kit: Kit = STANDARD,
    dtype: torch.dtype | None = None,
    compute: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> ControlModel:
    """Load a control model from a file or folder, complete and checked.

    settings: the user's word on what no shape tells. base_state: weights of the base U-Net by bare ldm names, which
    "difference" files need. kit: the layers and the attention to build from. dtype: of the weights; None keeps the
    file's, but for 8 bits, which become 32. compute: what the network calculates in, where layers cast their weights;
    None is `dtype`. Raises ModelError and its kinds, never loads half a model.
    """
    options: dict[str, Any] = {"kit": kit, "dtype": dtype, "compute": compute, "device": device}
    with open_model(path) as file:
        return load_open(file, settings=settings, base_state=base_state, **options)


def load_open(
    file: ModelFile,
    *,
    settings: Mapping[str, object] | None = None,
    base_state: Mapping[str, Tensor] | None = None,
    kit: Kit = STANDARD,
    **target: Any,
) -> ControlModel:
    """Load a control model from a file whose header told what to load it as; as `load_control_model` otherwise.

    target: `dtype`, `compute` and `device`.
    """
    family, prefix = _recognise(file.header)
    given = read_settings(family.settings, file.header, settings, family.of_config, family.of_metadata)
    path, state = file.header.path, below(file.tensors(), prefix)
    name = path.stem if path.is_file() else path.name
    with naming(file.header.name):
        model = family.load(state, given, kit, base_state, name=name, **target)
    with guard(name):
        model = family.join(model, file.header, given, base_state)
    model.source = str(path)
    return model


def _recognise(header: Header) -> tuple[Family[Any, Any], str]:
    """Return the family of a file, and what stands before all names of its network."""
    with guard(header.name):
        check_quantised(header.shapes, header.metadata, header.name)
        for prefix, shapes in unwrapped(header.shapes):
            if what := control_of_others(shapes):
                raise UnsupportedModelError(f"'{header.name}' cannot be used: it is {what}")
            found = [family for family in REGISTRY if family.detect(shapes)]
            if len(found) > 1:
                names = " and ".join(family.title for family in found)
                raise UnsupportedModelError(f"'{header.name}' looks like {names}: get the model in another form")
            if found:
                return found[0], prefix
        raise UnsupportedModelError(f"'{header.name}' is no control model: it is {no_control(header.shapes)}")


def _below(header: Header, prefix: str) -> Header:
    return replace(header, shapes=below(header.shapes, prefix), dtypes=below(header.dtypes, prefix))
