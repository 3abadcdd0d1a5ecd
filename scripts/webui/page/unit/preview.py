"""The button that runs a preprocessor and shows its hint, before any picture is made."""

# pyright: reportMissingImports=false
# The host's own modules exist only inside it.

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .....core.errors import ControlError, HintError
from .....units.webui.fields import parse_unit, request_of
from ...pictures.reading import input_of, rgba_pictures
from ...pictures.restoring import visible
from ...request import preprocessing
from ...request.arguments import OPTIONAL, THRESHOLDS, from_page_unit
from ...request.preparing import by_file
from ...request.services import services
from ..gradio_shim import on
from ..paste import line
from .poses import link
from .widgets import UnitPage

if TYPE_CHECKING:
    from ...pictures.reading import Image

IGNORE_MASK = "controlnet_ignore_noninpaint_mask"  # a setting
INPUTS = (
    "image", "drawn", "mask", "module", "model", "processor_res", *THRESHOLDS, "pixel_perfect", "resize_mode",
    *OPTIONAL,
)  # fmt: skip


def connect(page: UnitPage, width: Any, height: Any) -> None:
    """Connect the buttons; `width` and `height` are the tab's sliders, for pixel perfect and for an empty canvas."""
    extras = page.extras
    outputs = [extras[name] for name in ("preview", "show_preview", "pose", "said")]
    on(extras["run"].click, _run, [*page.pick(*INPUTS), width, height], outputs, progress=True)
    on(extras["canvas"].click, canvas, [width, height], page.pick("image", "enabled"))
    on(page.fields["module"].change, lambda: None, outputs=[extras["preview"]])  # it is of another preprocessor now


def _run(*given: Any) -> Any:  # gradio resolves annotations, so they name only what exists at run time
    import gradio as gr

    *values, width, height = given
    try:
        with services().alone("controlnet preview"):  # it may need the memory that a generation is using
            shown, pose = hint(dict(zip(INPUTS, values, strict=True)), (int(height), int(width)))
    except ControlError as error:  # an error that is raised would leave red marks on the pictures of later runs
        return None, gr.update(), "", line(str(error), wrong=True)
    return visible(shown), True, link(pose), ""


def canvas(width: float, height: float) -> Any:
    """Return a white picture [height, width, 3] of the result's size, and that its unit is on."""
    import numpy as np

    return np.full((int(height), int(width), 3), 255, np.uint8), True


def hint(values: Mapping[str, Any], target: tuple[int, int]) -> tuple[Image, dict[str, Any] | None]:
    """Return what the unit's preprocessor makes of its picture, and the poses in it.

    target: (height, width) of the picture to generate.
    """
    asked = parse_unit(from_page_unit({"enabled": True, **values}))
    unit = preprocessing.with_defaults(by_file(services(), asked))
    pictures = rgba_pictures(unit.image)
    if not pictures:
        raise HintError("there is no picture to look at: put one into the unit first")
    if preprocessing.lookup(unit.module).takes_mask:
        source, mask = pictures[0][..., :3], pictures[0][..., 3]
    else:
        source, mask = input_of(pictures[0], bool(services().program.option(IGNORE_MASK, False))), None
    return services().preprocess.with_poses(request_of(unit), source.copy(), target, mask)
