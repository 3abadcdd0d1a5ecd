"""The page "ControlNet" of the settings, under sd-webui-controlnet's keys where the meaning is the same."""

# pyright: reportMissingImports=false
# The host's own modules exist only inside it.

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..clients.remote import ALLOWED
from ..host.annotators import DOWNLOAD
from ..pictures.restoring import BLEND, BLUR
from ..request.services import CACHE_GIB, CACHE_OPTION, services
from .choices import LARGEST_UNITS

SECTION = ("control_net", "ControlNet")
UNITS_OPTION, UNITS = "control_net_unit_count", 3  # tabs, unless the user says otherwise
READ = "control_net_sync_field_args"  # whether pasted texts are read at all


def register() -> None:
    """Add the settings; one that somebody else has registered already stays as it is."""
    from modules import shared

    for key, option in _options().items():
        if key not in shared.opts.data_labels:
            shared.opts.add_option(key, option)


def unit_count() -> int:
    """Return how many tabs the page has."""
    return max(1, min(LARGEST_UNITS, int(services().program.option(UNITS_OPTION, UNITS))))


def _options() -> dict[str, Any]:
    import gradio as gr

    count = {"minimum": 1, "maximum": LARGEST_UNITS, "step": 1}
    blur = {"minimum": 0, "maximum": 64, "step": 1}
    cache = {"minimum": 0, "maximum": 64, "step": 0.5}
    return {
        UNITS_OPTION: _option(UNITS, "Number of units", gr.Slider, count).needs_reload_ui(),
        "control_net_models_path": _option("", "Another folder with ControlNet models", onchange=_look_again),
        CACHE_OPTION: _option(CACHE_GIB, "Memory for control models, in GiB", gr.Slider, cache)
        .info("models of the current picture are always kept")
        .needs_restart(),
        DOWNLOAD: _option(True, "Download a preprocessor's weights when they are first needed").needs_restart(),
        READ: _option(True, "Set units when a picture's text is pasted"),
        "control_net_no_detectmap": _option(False, "Do not show the preprocessors' pictures after the result"),
        "control_net_detectmap_autosaving": _option(False, "Save the preprocessors' pictures"),
        "control_net_detectedmap_dir": _option("detected_maps", "Folder for saved preprocessors' pictures"),
        BLUR: _option(BLEND, "Soft border around what inpainting redraws, in pixels", gr.Slider, blur),
        "controlnet_increment_seed_during_batch": _option(False, "Raise the seed with each picture of a batch folder"),
        "controlnet_ignore_noninpaint_mask": _option(False, "Ignore what is painted on a unit's picture").info(
            "otherwise it is the unit's input, as a scribble, unless the preprocessor inpaints"
        ),
        ALLOWED: _option(False, "Allow other scripts to control units"),
    }


def _look_again() -> None:
    """Read the folders of models anew, since one of them is another now."""
    services().files.refresh()


def _option(
    default: Any, label: str, component: Any = None, arguments: Any = None, onchange: Callable[[], None] | None = None
) -> Any:
    from modules import shared

    return shared.OptionInfo(default, label, component, arguments, onchange, section=SECTION)
