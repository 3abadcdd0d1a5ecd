"""Units <-> the text that a WebUI writes into its pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

from torch import Tensor

from ..core import infotext
from ..core.errors import UnitError
from ..core.fields import NO_MODEL, HiresOption, UnitArgs, parse_unit
from ..core.schedule import RangeBasis
from ..preprocessors import find
from ..preprocessors.declaration import nearest
from ..preprocessors.webui import parameters_of
from .choice import CHOICE, SEED
from .spec import Units, UnitSpec

RESOLUTION = "resolution"


def read_units(settings: Any, chosen: HiresOption) -> list[UnitArgs]:
    """The units of a picture that act in the chosen pass of a hires fix, in order. Raises UnitError if it has none."""
    found = sorted(infotext.read(settings).items())
    if not found:
        raise UnitError(
            "the text has no ControlNet unit: paste a picture's whole text from a WebUI, or a line such as "
            'ControlNet 0: "Module: canny, Model: control_v11p_sd15_canny, Weight: 1.0"'
        )
    units = [parse_unit(fields) for _, fields in found]
    passes = {chosen, HiresOption.BOTH}
    return [unit for unit in units if chosen is HiresOption.BOTH or unit.hr_option in passes]


def file_of(unit: UnitArgs, files: Sequence[str]) -> str:
    """The file of a unit's model: a WebUI names it without its ending, with a number after it, in any folder."""
    stem = unit.model.partition(" [")[0]
    if stem == NO_MODEL:
        raise UnitError(f"a unit of the preprocessor '{unit.module}' has no control model: such a unit cannot act here")
    by_stem = {PurePath(name.replace("\\", "/")).stem.lower(): name for name in files}
    if stem.lower() not in by_stem:
        close = ", ".join(nearest(stem, list(by_stem))) or "none that is similar"
        raise UnitError(f"the model '{stem}' is not in the controlnet folder; there is: {close}. Put the file there")
    return by_stem[stem.lower()]


def choice_of(unit: UnitArgs) -> dict[str, Any]:
    """The unit's preprocessor as our nodes hand one over."""
    preprocessor = find(unit.module or "none")
    return {
        CHOICE: preprocessor.id,
        **preprocessor.settings(
            {**parameters_of(preprocessor, (unit.threshold_a, unit.threshold_b)), **unit.parameters}
        ),
    }


def pictures_of(image: Tensor, count: int) -> list[Tensor]:
    """A picture for each unit, of one picture for all or one for each."""
    if len(image) not in (1, count):
        raise UnitError(f"there are {len(image)} pictures for {count} units: give one for all, or one for each")
    return [image[index : index + 1] if len(image) > 1 else image for index in range(count)]


def write_units(units: Units) -> str:
    """The lines that a WebUI reads, in the form in which it pastes them.

    No program's version ends this text, so each unit says what its range means, as where ranges go by noise.
    """
    texts = infotext.write([_args(number, spec) for number, spec in enumerate(units, start=1)], RangeBasis.NOISE)
    return ", ".join(f'{key}: "{text}"' for key, text in texts.items())


def _args(number: int, spec: UnitSpec) -> UnitArgs:
    own = getattr(spec.control, "own", None)
    if own is None:
        raise UnitError(f"unit {number}: another node loaded its model and does not tell the file: load it with ours")
    made = dict(spec.made_by)
    preprocessor, resolution = find(made.pop(CHOICE, "none")), made.pop(RESOLUTION, None)
    made.pop(SEED, None)  # a WebUI takes the picture's own
    first, second = ([made.pop(each.name) for each in preprocessor.parameters[:2]] + [-1, -1])[:2]
    unit = UnitArgs(
        enabled=True,
        module=preprocessor.id,
        model=PurePath(own.model.name).stem,
        weight=spec.weight,
        resize_mode=spec.resize,
        processor_res=resolution or min(spec.hint.shape[1:3]),
        threshold_a=first,
        threshold_b=second,
        guidance_start=spec.schedule.start,
        guidance_end=spec.schedule.end,
        control_mode=spec.mode,
        advanced_weighting=spec.block_weights,
        range_basis=spec.schedule.basis,
        curve=spec.schedule.keyframes,
        parameters=made,
    )
    parse_unit(infotext.read_unit(infotext.write_unit(unit)))  # what a WebUI would refuse is said here
    return unit
