"""The accordion "ControlNet": a tab for each unit, and what ties them together."""

# pyright: reportMissingImports=false
# The host's own modules exist only inside it.

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ....core.errors import ControlError
from ..request.services import services
from . import choices, paste, preset_page
from .gradio_shim import on_any, on_load
from .settings import unit_count
from .unit import events as unit_events
from .unit import poses, preview
from .unit.events import about, slider_updates
from .unit.widgets import SLIDERS, UnitPage, build_unit

PLANNED = ("enabled", "weight", "guidance_start", "guidance_end", "range_basis", "curve")
# The host's own widgets that ours look at, by the end of their id; the last one that it makes is `LAST`.
WATCHED, LAST = ("steps", "width", "height", "denoising_strength"), "gallery"


def build(script: Any, is_img2img: bool) -> list[Any]:
    """Return all arguments of the page's script: the fields of each unit, in the order of `arguments`."""
    import gradio as gr

    tab = "img2img" if is_img2img else "txt2img"
    with (
        gr.Group(elem_id=f"{tab}_controlnet", elem_classes=["controlnet"]),
        gr.Accordion("ControlNet", open=False, elem_id="controlnet"),
    ):
        script.pages = _tabs(tab, unit_count())
    script.infotext_fields = [field for page in script.pages for field in _pasted_fields(page)]
    script.paste_field_names = [key for _, key in script.infotext_fields if not key.endswith(f" {paste.SAID}")]
    return [each for page in script.pages for each in page.arguments]


def watch(script: Any, component: Any, elem_id: str | None) -> None:
    """Keep those of the host's own widgets that we look at, and connect ours after the last one."""
    tab = "img2img" if script.is_img2img else "txt2img"
    name = (elem_id or "").removeprefix(f"{tab}_")
    if name in WATCHED:
        script.watched[name] = component
    elif name == LAST and elem_id != name and {"steps", "width", "height"} <= script.watched.keys():
        _connect(script.pages, script.watched)


def _tabs(tab: str, count: int) -> list[UnitPage]:
    import gradio as gr

    if count == 1:
        return [_unit(tab, 0)]
    pages = []
    with gr.Tabs(elem_id=f"{tab}_controlnet_tabs"):
        for index in range(count):
            with gr.Tab(f"ControlNet Unit {index}", elem_classes=["cnet-unit-tab"]):
                pages.append(_unit(tab, index))
    return pages


def _unit(tab: str, index: int) -> UnitPage:
    page = build_unit(tab, index)
    unit_events.connect(page)
    poses.connect(page)
    preset_page.build_row(page)
    for helper in page.extras.values():  # they say nothing about a unit, so there is nothing to keep
        helper.do_not_save_to_config = True
    return page


def separate_defaults() -> list[Any]:
    """Give each unit its own defaults in ui-config.json, which knows widgets by script and label. A host's callback.

    The host asks for tabs, of which there are none, after it made the widgets and before it reads that file.
    """
    from modules import scripts

    for runner in (scripts.scripts_txt2img, scripts.scripts_img2img):
        for script in runner.alwayson_scripts:
            for page in getattr(script, "pages", ()):
                for widget in page.arguments if page.index else ():
                    widget.custom_script_source = f"{widget.custom_script_source}/unit {page.index}"
    return []


def _pasted_fields(page: UnitPage) -> list[tuple[Any, str]]:
    named = [(page.fields[name], paste.key_of(page.index, name)) for name in paste.PASTED]
    return [*named, *((page.extras[name], paste.key_of(page.index, name)) for name in (paste.TYPE, paste.SAID))]


def _connect(pages: Sequence[UnitPage], watched: dict[str, Any]) -> None:
    host = [watched["steps"], *([watched["denoising_strength"]] if pages[0].tab == "img2img" else [])]
    preset_page.connect(pages)
    shown = [each for page in pages for each in page.pick("module", "pixel_perfect", *SLIDERS)]
    changed = [each for page in pages for each in page.pick(*SLIDERS)]
    on_load(_arrange, shown, changed)
    for page in pages:
        on_load(about, page.pick("module"), [page.extras["about"]])
        preview.connect(page, watched["width"], watched["height"])
        told = [*page.pick(*PLANNED), *host]
        on_any([each.change for each in told], _plan, told, [page.extras["plan"]])


def _arrange(*given: Any) -> list[Any]:
    """Return the sliders of the preprocessors that are the page's defaults, as it is opened."""
    width = 2 + len(SLIDERS)
    units = [given[start : start + width] for start in range(0, len(given), width)]
    return [each for module, pixels, *values in units for each in slider_updates(module, pixels, values)]


def _plan(*given: Any) -> str:
    """Return the line below the sliders; empty for a unit that is off."""
    values: dict[str, Any] = dict(zip(PLANNED, given, strict=False))
    steps, *others = given[len(PLANNED) :]
    strength = others[0] if others else None
    if not values["enabled"]:
        return ""
    exact = bool(services().program.option("img2img_fix_steps", False))
    try:
        return paste.line(choices.plan(values, choices.steps_of(steps, strength, exact)))
    except ControlError as error:
        return paste.line(str(error), wrong=True)
