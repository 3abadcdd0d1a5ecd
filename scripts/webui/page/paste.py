"""A picture's text, or a preset, put back into the page: units that it names are switched on, the others off.

A text without units changes nothing, so pasting a prompt keeps what the user has set up.
"""

# pyright: reportMissingImports=false
# The host's own modules exist only inside it.

from __future__ import annotations

import html
import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ....core.errors import ControlError, ModelError
from ....core.schedule import RangeBasis
from ....units.choices import UNION_TYPES, UnionType
from ....units.offer import ALL
from ....units.webui import infotext
from ....units.webui.fields import NO_MODEL, is_auto, parse_unit
from ....units.webui.fileless import is_model
from ..request import preprocessing
from ..request.arguments import FIELDS, THRESHOLDS
from ..request.services import services
from . import choices
from .settings import READ, unit_count

if TYPE_CHECKING:
    from ....preprocessors import Preprocessor
    from ..host.files import ModelFiles

log = logging.getLogger("controlstack")

# Not fields of a unit: the page's filter, which must not hide what was pasted, and the line that says what is amiss.
TYPE, SAID = "type", "said"
# What a text can set; pictures and folders stay as they are.
PASTED = tuple(
    name for name in FIELDS
    if name not in ("image", "drawn", "mask", "effective_region_mask", "region_drawn", "multi_images", "batch_folder",
                    "output_folder", "input_mode", "loopback", "low_vram", "inpaint_crop_input_image")
)  # fmt: skip


def key_of(index: int, name: str) -> str:
    """Return the name under which a pasted field travels, as in sd-webui-controlnet."""
    return f"ControlNet {index} {name}"


def widget_values(
    fields: Mapping[str, object], files: ModelFiles, basis: RangeBasis = RangeBasis.WEBUI
) -> tuple[dict[str, Any], list[str]]:
    """Return the page's values for a unit's fields, and what is amiss with them in sentences.

    basis: what a range means in this program, where the fields do not say so.
    A model that is not there leaves none chosen, so that generating says so instead of using another one.
    """
    try:
        values = choices.display(parse_unit(fields, basis))
    except ControlError as error:
        return {"enabled": False}, [f"a unit was left out: {error}"]
    module = values["module"]
    refused = "" if is_auto(module) else _refused(preprocessing.lookup(module))
    amiss = [f"{module} cannot be used: {refused}"] if refused else []
    if values["model"].lower() == NO_MODEL.lower():
        return values | {"model": NO_MODEL}, amiss
    try:
        return values | {"model": files.find(values["model"])[0]}, amiss
    except ModelError as error:
        return values | {"model": NO_MODEL}, [*amiss, str(error)]


def _refused(preprocessor: Preprocessor) -> str:
    return "" if is_model(preprocessor) else preprocessor.refusal


def explode(
    parameters: dict[str, Any], count: int, files: ModelFiles, basis: RangeBasis = RangeBasis.WEBUI
) -> list[str]:
    """Add an entry for each widget to a picture's parsed parameters; what is amiss in sentences.

    count: tabs of the page. basis: what a range means in this program, where the text does not say so.
    """
    units = infotext.read(parameters)
    unread = [f"the text has '{key}' in a form that is not known, so that unit was left out: set it by hand"
              for key in infotext.unread(parameters)]  # fmt: skip
    if not units:
        return unread
    beyond = [f"the text has unit {index}, and the page has {count}: raise the number of units in the settings"
              for index in units if index >= count]  # fmt: skip
    problems = [*unread, *beyond]
    for index in range(count):
        values, amiss = widget_values(units[index], files, basis) if index in units else ({"enabled": False}, [])
        problems += [f"unit {index}: {each}" for each in amiss]
        for name, update in updates(values, files.names, amiss).items():
            parameters[key_of(index, name)] = update
    return problems


def line(text: str, *, wrong: bool = False) -> str:
    """Return a line of the page below the widget that it is about; wrong: it says why something cannot work."""
    return f'<span class="cnet-plan-line{" cnet-plan-wrong" if wrong else ""}">{html.escape(text)}</span>'


def updates(values: Mapping[str, Any], models: list[str], amiss: Sequence[str] = ()) -> dict[str, Any]:
    """Return what the host does with each widget; amiss: what the unit says of it."""
    found: dict[str, Any] = {name: values[name] for name in PASTED if name in values}
    found[SAID] = line(" ".join(amiss), wrong=True) if amiss else ""
    if "module" not in values:
        return {name: _update(value=value) for name, value in found.items()}
    sliders = dict(zip(("processor_res", *THRESHOLDS), choices.sliders(values["module"]), strict=True))
    hidden = {"processor_res": bool(values["pixel_perfect"])}
    for name, slider in sliders.items():
        found[name] = _update(
            value=values[name] if slider.visible else slider.value, visible=slider.visible and not hidden.get(name),
            label=slider.label, minimum=slider.minimum, maximum=slider.maximum, step=slider.step,
        )  # fmt: skip
    for name in ("weight", "delta_strength"):  # a text may say more than the slider shows
        least, most = min(0.0, values[name]), max(choices.SHOWN_WEIGHT, values[name])
        found[name] = _update(value=values[name], minimum=least, maximum=most)
    union = values["union_control_type"]
    found["union_control_type"] = _update(value=union, visible=union != UNION_TYPES.label(UnionType.UNKNOWN))
    found["options"] = _update(value=values["options"], visible=bool(values["options"]))
    found["module"] = _update(value=values["module"], choices=choices.modules())
    found["model"] = _update(value=values["model"], choices=[NO_MODEL, *models])
    found[TYPE] = _update(value=ALL)
    return {name: value if isinstance(value, dict) else _update(value=value) for name, value in found.items()}


def pasted(_text: str, parameters: dict[str, Any]) -> None:
    """Set the page's widgets by a picture's text; the host calls it."""
    program, files = services().program, services().files
    if program.option(READ, True):
        warn(explode(parameters, unit_count(), files, program.basis))


def warn(problems: list[str]) -> None:
    """Say problems in the console and, while a page listens, in its corner."""
    import gradio as gr

    for problem in problems:
        log.warning(problem)
        gr.Warning(f"ControlNet: {problem}")


def _update(**changes: Any) -> dict[str, Any]:
    """Return `gr.update` of both versions, which needs no gradio."""
    return {**changes, "__type__": "update"}
