"""What the page offers and shows for a choice: pure functions, so they are tested without a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ....core.schedule import RangeBasis, fires_on, progress_at
from ....core.wording import counted
from ....models.kinds.references import REFERENCES
from ....models.kinds.unions import OPTION as UNION_OPTION
from ....preprocessors.networks.network import file_name
from ....units.choices import BASES, HIRES, MODES, RESIZES, UNION_TYPES, Choices
from ....units.offer import ALL, default_model
from ....units.request import AUTO
from ....units.text import write_block_weights, write_curve, write_options, write_reuse
from ....units.webui.fields import (
    FROM_PREPROCESSOR,
    NO_MODEL,
    UnitArgs,
    is_auto,
    numbers_of,
    parse_unit,
    request_of,
)
from ....units.webui.fileless import default_preprocessor, of_type, offer_of
from ..request import preprocessing
from ..request.arguments import OPTIONAL, THRESHOLDS

if TYPE_CHECKING:
    from ....core.options import Option
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
    """Return the names of all preprocessors, for the dropdown."""
    return [*(each.id for each in of_type(ALL)), AUTO]


def sliders(module: str) -> list[Slider]:
    """Return resolution and thresholds of a preprocessor, at their defaults, one for each slider of the page."""
    if is_auto(module):
        return [Slider(True, *preprocessing.RESOLUTION.values()), *[Slider()] * len(THRESHOLDS)]
    preprocessor = preprocessing.lookup(module)
    specified = [Slider(True, *each.values()) for each in preprocessing.sliders(preprocessor)]
    resolution = specified.pop(0) if specified and specified[0].label == preprocessing.RESOLUTION["name"] else Slider()
    return [resolution, *specified, *[Slider()] * (len(THRESHOLDS) - len(specified))]


def offer(tag: str, models: Sequence[str]) -> Offer:
    """Return the preprocessors of a control type and its `models`, and the one of each that is chosen."""
    return Offer(
        modules=[*(each.id for each in of_type(tag)), AUTO],
        module=default_preprocessor(tag).id,
        models=[NO_MODEL, *models],
        model=NO_MODEL if tag == ALL else default_model(models) or NO_MODEL,
    )


def about(module: str, store: Store | None = None) -> tuple[str, bool]:
    """Return what a preprocessor does, its weights' licence and what it lacks; and whether it can run here.

    Weights that `store` fetches when they are needed are no hindrance.
    """
    if is_auto(module):
        return "The preprocessor that the model's own file names; a file that names none is refused.", True
    preprocessor = preprocessing.lookup(module)
    if preprocessor.id in REFERENCES:
        return f"{preprocessor.doc} Each step evaluates the base model once more.", True
    found = offer_of(preprocessor, store)
    parts = [f"{found.preprocessor.id} cannot run here: {found.lacks}" if found.lacks else found.preprocessor.doc]
    if found.licences:
        parts.append(f"Licence of its weights: {found.licences}.")
    if found.fetches:
        parts.append(f"{', '.join(file_name(file) for file in found.fetches)} will be downloaded when it first runs.")
    return " ".join(parts), not found.lacks


def display(unit: UnitArgs) -> dict[str, Any]:
    """Return a unit as the values of the page's widgets, all but pictures."""
    unit = preprocessing.with_defaults(unit)
    request = request_of(unit)
    shown: dict[str, Any] = {name: getattr(unit, name) for name in _PLAIN}
    shown |= {name: labels.label(getattr(unit, name)) for name, labels in _LABELS.items()}
    module = AUTO if is_auto(unit.module) else preprocessing.lookup(unit.module).id
    shown |= {"module": module, "processor_res": unit.processor_res}
    shown |= {"weight": request.weight, "curve": write_curve(unit.curve)}
    shown["block_weights"] = write_block_weights(request.block_weights)
    shown |= {"delta_strength": unit.delta_strength, "options": write_options(unit.options)}
    shown["reuse"] = write_reuse(unit.reuse)
    shown |= {name: _written(getattr(unit, name)) for name in OPTIONAL}
    return shown | dict(zip(THRESHOLDS, _thresholds(unit), strict=True))


@dataclass(frozen=True)
class Options:
    """What the page shows of the options of a model."""

    kinds: list[str]  # of a union, as sd-webui-controlnet calls them; none for other models
    all: str  # every option with what it may be; empty for a model without


def options(offers: Sequence[Option]) -> Options:
    """Return what the page shows for a model that offers these options."""
    union = next((each for each in offers if each.name == UNION_OPTION), None)
    labels = [] if union is None else [label for label in UNION_TYPES.labels if union.find(label) is not None]
    return Options(labels, "; ".join(f"{each.name}={each.expected}" for each in offers))


def _written(number: int | None) -> str:
    return "" if number is None else str(number)


def plan(values: Mapping[str, Any], steps: int) -> str:
    """Return `fires on 12 of 20 steps` for a unit as the page has it. ControlError says what is wrong with it."""
    unit = request_of(parse_unit({**values, "enabled": True}))
    if unit.weight == 0:
        return f"fires on 0 of {counted(steps, 'step')}: the weight is 0"
    fired = fires_on(unit.schedule, (progress_at(index, steps) for index in range(steps)))
    about = " (about: it depends on the sampler)" if unit.basis is RangeBasis.NOISE else ""
    return f"fires on {len(fired)} of {counted(steps, 'step')}{about}"


def steps_of(steps: int, strength: float | None, exact: bool) -> int:
    """Return how many steps a pass runs. strength: img2img's denoising; exact: the setting "do exactly the steps".

    The WebUI samples int(strength * steps) + 1 of them then (`sd_samplers_common.setup_img2img_steps`).
    """
    if strength is None:
        return max(1, int(steps))
    return max(1, int(steps) if exact else int(min(strength, 0.999) * int(steps)) + 1)


def _thresholds(unit: UnitArgs) -> list[float]:
    """Return the preprocessor's own numbers, in the order of its declaration."""
    given = numbers_of(unit)
    parameters = () if is_auto(unit.module) else preprocessing.lookup(unit.module).parameters
    values = [given.get(each.name, each.default) for each in parameters]
    return [*values, *[FROM_PREPROCESSOR] * (len(THRESHOLDS) - len(values))]
