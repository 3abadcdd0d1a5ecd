"""`external_code` of sd-webui-controlnet: what other extensions import to give units to a request.

They import it under paths that are that extension's files. So this module is also known under those names, and the
names of its functions and fields are theirs.
"""

# pyright: reportMissingImports=false
# The host's own modules exist only inside it.

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ....core.resize import pixel_perfect
from ....models.families.controlnet import network
from ....units.choices import RESIZES
from ..host.foreign import (
    ControlMode,
    ControlModelType,
    ControlNetUiGroup,
    ControlNetUnionControlType,
    ControlNetUnit,
    HiResFixOption,
    InputMode,
    ResizeMode,
)
from ..page.page_script import with_page
from ..page.settings import unit_count
from ..pictures.reading import read_picture
from ..request import preprocessing
from ..request.arguments import fill, raw_units
from ..request.services import services
from .api import VERSION
from .rival import PEER

if TYPE_CHECKING:
    from ..pictures.reading import Image

log = logging.getLogger("controlstack")

__all__ = [
    "ControlMode", "ControlModelType", "ControlNetUiGroup", "ControlNetUnionControlType", "ControlNetUnit",
    "HiResFixOption", "InputMode", "ResizeMode",
]  # fmt: skip

ROOT = Path(__file__).resolve().parents[3]
NAMES = (
    "scripts.external_code",
    "extensions.{}.scripts.external_code",
    "{}.external_code",
    "{}.args",
)
OTHERS = (  # of its files, of which others take one thing each; where somebody has such a module already, it stays
    "scripts.hook",  # AnimateDiff: ControlModelType
    "scripts.controlnet_ui.controlnet_ui_group",  # Replacer: ControlNetUiGroup
    "annotator.util",  # Replacer and Segment Anything: HWC3
)
NETWORKS = "scripts.cldm"  # Tiled Diffusion looks for units only where this module has a class ControlNet


def publish() -> None:
    """Make this module importable under the names of sd-webui-controlnet's modules, which other extensions import."""
    from modules import extensions

    active = [(each, Path(each.path)) for each in extensions.active()]
    folders = {"sd-webui-controlnet", *(each.name for each, path in active if path.resolve() == ROOT)}
    names = {name.format(folder) for name in NAMES[:2] for folder in folders}
    names |= {name.format(PEER) for name in NAMES[2:]}
    sys.modules.update(dict.fromkeys(names, sys.modules[__name__]))
    for name in OTHERS:
        sys.modules.setdefault(name, sys.modules[__name__])
    sys.modules[NETWORKS] = network


def get_api_version() -> int:
    """Return the version of sd-webui-controlnet's API that this one follows."""
    return VERSION


def get_models(update: bool = False) -> list[str]:
    """Return all control models; `update` looks at the folders again."""
    if update:
        services().files.refresh()
    return services().files.names


def get_modules(alias_names: bool = False) -> list[str]:
    """Return all preprocessors."""
    return preprocessing.names(alias_names)


def get_modules_detail(alias_names: bool = False) -> dict[str, Any]:
    """Return the sliders of all preprocessors."""
    return {name: preprocessing.detail(preprocessing.lookup(name)) for name in get_modules(alias_names)}


def get_max_models_num() -> int:
    """Return how many tabs the page has."""
    return unit_count()


def is_cn_script(script: Any) -> bool:
    """Return whether a script is called as ours is."""
    return script.title().lower() == "controlnet"


def find_cn_script(script_runner: Any) -> Any:
    """Return our script among those of a tab, or None."""
    scripts = getattr(script_runner, "alwayson_scripts", None) or ()
    return next((script for script in scripts if is_cn_script(script)), None)


def get_all_units_in_processing(p: Any) -> list[ControlNetUnit]:
    """Return the units of a request."""
    return get_all_units(p.scripts, p.script_args)


def get_all_units(script_runner: Any, script_args: Sequence[Any]) -> list[ControlNetUnit]:
    """Return the units among the arguments of all scripts."""
    script = find_cn_script(script_runner)
    if script is None:
        return []
    own = script_args[script.args_from : script.args_to]
    return get_all_units_from(with_page(script_runner, own, script_args))


def get_all_units_from(script_args: Sequence[Any]) -> list[ControlNetUnit]:
    """Return the units among our script's arguments."""
    return [to_processing_unit(each) for each in raw_units(list(script_args))]


def get_single_unit_from(script_args: Sequence[Any], index: int = 0) -> ControlNetUnit | None:
    """Return unit number `index` among our script's arguments; None if there are fewer."""
    units = get_all_units_from(script_args)
    return units[index] if index < len(units) else None


def to_processing_unit(unit: Any) -> ControlNetUnit:
    """Return a unit from a client's object, from another's class of this name, or itself."""
    return (
        unit
        if isinstance(unit, ControlNetUnit)
        else ControlNetUnit(**(unit if isinstance(unit, Mapping) else vars(unit)))
    )


def update_cn_script_in_processing(p: Any, cn_units: Sequence[Any], **_ignored: Any) -> None:
    """Let a request run with these units instead of its own."""
    p.script_args = update_cn_script(p.scripts, p.script_args, cn_units)


def update_cn_script(script_runner: Any, script_args: Any, cn_units: Sequence[Any]) -> Any:
    """Return the arguments of all scripts with these units in ours; the places of other scripts' arguments stay."""
    changed = list(script_args)
    update_cn_script_in_place(script_runner, changed, cn_units)
    return type(script_args)(changed)


def update_cn_script_in_place(
    script_runner: Any, script_args: list[Any], cn_units: Sequence[Any], **_ignored: Any
) -> None:
    """Put these units into ours, in the list itself."""
    script = find_cn_script(script_runner)
    if script is not None and len(script_args) >= script.args_from:
        fill(script_args, script.args_from, cn_units)


def resize_mode_from_value(value: Any) -> ResizeMode:
    """Return a resize mode of any form; the WebUI's own list has a fourth, latent upscale."""
    if isinstance(value, int) and value >= len(ResizeMode):
        return ResizeMode.RESIZE
    return ResizeMode(RESIZES.label(RESIZES.read("resize_mode", value)))


def pixel_perfect_resolution(image: Image, target_H: int, target_W: int, resize_mode: Any) -> int:  # noqa: N803
    """Return the preprocessor resolution that loses and invents no detail."""
    mode = RESIZES.read("resize_mode", resize_mode)
    return pixel_perfect((image.shape[0], image.shape[1]), (target_H, target_W), mode)


def to_base64_nparray(encoding: str) -> Image:
    """Return a picture from base64 text."""
    return read_picture(encoding)


def HWC3(picture: Any) -> Image:  # noqa: N802
    """Return a picture of one, three or four channels as RGB [H, W, 3]."""
    return read_picture(picture)
