"""Units <-> the text that a WebUI writes into its pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import PurePath
from typing import Any

from torch import Tensor

from ...core.errors import UnitError
from ...core.schedule import RangeBasis
from ...preprocessors.declaration import nearest
from ...units.choices import HiresOption
from ...units.make import acts_in
from ...units.request import UnitRequest
from ...units.webui import infotext
from ...units.webui.fields import args_of, parse_unit, request_of
from ..spec import Units, UnitSpec


def read_units(settings: Any, part: HiresOption) -> list[UnitRequest]:
    """Return the units of a picture that act in the chosen pass of a hires fix, in order; UnitError if it has none."""
    found = sorted(infotext.read(settings).items())
    if not found:
        raise UnitError(
            "the text has no ControlNet unit: paste a picture's whole text from a WebUI, or a line such as "
            'ControlNet 0: "Module: canny, Model: control_v11p_sd15_canny, Weight: 1.0"'
        )
    units = [request_of(parse_unit(fields)) for _, fields in found]
    return [unit for unit in units if acts_in(unit, part)]


def file_of(unit: UnitRequest, files: Sequence[str]) -> str:
    """Return the file of a unit's model: a WebUI names it without its ending, with a number after it, in any folder."""
    stem = unit.model.partition(" [")[0]
    if not stem:
        raise UnitError(
            f"a unit of the preprocessor '{unit.preprocessor}' has no control model: such a unit cannot act here"
        )
    by_stem = {PurePath(name.replace("\\", "/")).stem.lower(): name for name in files}
    if stem.lower() not in by_stem:
        close = ", ".join(nearest(stem, list(by_stem))) or "none that is similar"
        raise UnitError(f"the model '{stem}' is not in the controlnet folder; there is: {close}. Put the file there")
    return by_stem[stem.lower()]


def pictures_of(image: Tensor, count: int) -> list[Tensor]:
    """Return a picture for each unit, of one picture for all or one for each."""
    if len(image) not in (1, count):
        raise UnitError(f"there are {len(image)} pictures for {count} units: give one for all, or one for each")
    return [image[index : index + 1] if len(image) > 1 else image for index in range(count)]


def write_units(units: Units) -> str:
    """Return the lines that a WebUI reads, in the form in which it pastes them.

    No program's version ends this text, so each unit says what its range means, as where ranges go by noise.
    """
    texts = [_text(number, spec) for number, spec in enumerate(units, start=1)]
    return ", ".join(f'{infotext.KEY.format(index)}: "{text}"' for index, text in enumerate(texts))


def _text(number: int, spec: UnitSpec) -> str:
    own = getattr(spec.control, "own", None)
    if own is None:
        raise UnitError(f"unit {number}: another node loaded its model and does not tell the file: load it with ours")
    request = replace(spec.request, model=PurePath(own.model.name).stem)
    args = args_of(request, side=min(spec.hint.shape[1:3]))
    return infotext.write_unit(args, RangeBasis.NOISE, blocks=len(own.model.points))
