"""What the page offers and shows for a choice: pure functions, so they are tested without a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ....core.schedule import RangeBasis, fires_on, progress_at
from ....preprocessors.networks.network import file_name
from ....preprocessors.perform import Preprocessor
from ....units.choices import BASES, HIRES, MODES, RESIZES, UNION_TYPES, Choices
from ....units.offer import ALL, of_type, offer_of
from ....units.text import write_block_weights, write_curve
from ....units.webui_fields import (
    FROM_PREPROCESSOR,
    NO_MODEL,
    NO_MODULE,
    UnitArgs,
    numbers_of,
    parse_unit,
    request_of,
)
from ..request import preprocessing
from ..request.arguments import THRESHOLDS

if TYPE_CHECKING:
    from ....preprocessors.networks.store import Store

LARGEST_UNITS = 10  # tabs, as in sd-webui-controlnet's settings
SHOWN_WEIGHT = 2.0  # the end of the slider; texts and clients may say more
_LABELS: Mapping[str, Choices[Any]] = {
    "resize_mode": RESIZES,
    "control_mode": MODES,
    "hr_option": HIRES,
    "range_basis": BASES,
    "union_control_type": UNION_TYPES,
}
_PLAIN = (
    "enabled", "low_vram", "pixel_perfect", "model", "guidance_start", "guidance_end",
    "inpaint_crop_input_image",
)  # fmt: skip


@dataclass(frozen=True)
class Slider:
    """One of the sliders below the preprocessor; those that it lacks are hidden."""

    visible: bool = False
    label: str = ""
    value: float = FROM_PREPROCESSOR
    minimum: float = 0
    maximum: float = 1
    step: float = 0.01


@dataclass(frozen=True)
class Offer:
    """What a control type leaves to choose from, and what is chosen."""

    modules: list[str]
    module: str
    models: list[str]
    model: str


def modules() -> list[str]:
    """The names of all preprocessors, for the dropdown."""
    return [each.id for each in of_type(ALL)]


def sliders(module: str) -> list[Slider]:
    """The resolution and the thresholds of a preprocessor, at their defaults, one for each slider of the page."""
    preprocessor = preprocessing.lookup(module)
    specified = [Slider(True, each["name"], each["value"], each["min"], each["max"], each["step"])
                 for each in preprocessing.sliders(preprocessor)]  # fmt: skip
    resolution = specified.pop(0) if specified and specified[0].label == preprocessing.RESOLUTION["name"] else Slider()
    return [resolution, *specified, *[Slider()] * (len(THRESHOLDS) - len(specified))]


def offer(tag: str, models: Sequence[str]) -> Offer:
    """The preprocessors of a control type and its `models`, and the one of each that is chosen."""
    found = of_type(tag)
    own = [each.id for each in found if each.id != NO_MODULE]
    everything = tag == ALL
    return Offer(
        modules=[each.id for each in found],
        module=NO_MODULE if everything or not own else own[0],
        models=[NO_MODEL, *models],
        model=NO_MODEL if everything or not models else _preferred(models),
    )


def about(module: str, store: Store | None = None) -> tuple[str, bool]:
    """What a preprocessor does, under which licence its weights come, and what it lacks; whether it can run here.

    Weights that `store` fetches when they are needed are no hindrance.
    """
    found = offer_of(preprocessing.lookup(module), store)
    parts = [f"{found.preprocessor.id} cannot run here: {found.lacks}" if found.lacks else found.preprocessor.doc]
    if found.licences:
        parts.append(f"Licence of its weights: {found.licences}.")
    if found.fetches:
        parts.append(f"{', '.join(file_name(file) for file in found.fetches)} will be downloaded when it first runs.")
    return " ".join(parts), not found.lacks


def display(unit: UnitArgs) -> dict[str, Any]:
    """Return a unit as the values of the page's widgets, all but pictures."""
    preprocessor = preprocessing.lookup(unit.module)
    unit = preprocessing.with_defaults(unit)
    request = request_of(unit)
    shown: dict[str, Any] = {name: getattr(unit, name) for name in _PLAIN}
    shown |= {name: labels.label(getattr(unit, name)) for name, labels in _LABELS.items()}
    shown |= {"module": preprocessor.id, "processor_res": unit.resolution or unit.processor_res}
    shown |= {"weight": request.weight, "curve": write_curve(unit.curve)}
    shown["block_weights"] = write_block_weights(request.block_weights)
    return shown | dict(zip(THRESHOLDS, _thresholds(preprocessor, unit), strict=True))


def plan(values: Mapping[str, Any], steps: int) -> str:
    """`fires on 12 of 20 steps` for a unit as the page has it; what is wrong with it, if it cannot be read."""
    unit = request_of(parse_unit({**values, "enabled": True}))
    if unit.weight == 0:
        return f"fires on 0 of {steps} steps: the weight is 0"
    fired = fires_on(unit.schedule, (progress_at(index, steps) for index in range(steps)))
    about = " (about: it depends on the sampler)" if unit.basis is RangeBasis.NOISE else ""
    return f"fires on {len(fired)} of {steps} steps{about}"


def steps_of(steps: int, strength: float | None, exact: bool) -> int:
    """The steps that a pass runs. strength: img2img's denoising; exact: the WebUI's setting "do exactly the steps".

    The WebUI samples int(strength * steps) + 1 of them then (`sd_samplers_common.setup_img2img_steps`).
    """
    if strength is None:
        return max(1, int(steps))
    return max(1, int(steps) if exact else int(min(strength, 0.999) * int(steps)) + 1)


def _preferred(models: Sequence[str]) -> str:
    """The first one of version 1.1, as sd-webui-controlnet chooses; else the first one."""
    return next((each for each in models if "11" in each.rpartition(" [")[0]), models[0])


def _thresholds(preprocessor: Preprocessor, unit: UnitArgs) -> list[float]:
    """The preprocessor's own numbers, in the order of its declaration."""
    given = numbers_of(unit)
    values = [given.get(each.name, each.default) for each in preprocessor.parameters]
    return [*values, *[FROM_PREPROCESSOR] * (len(THRESHOLDS) - len(values))]
