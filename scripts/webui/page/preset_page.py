"""The row below a unit that keeps its settings under a name."""

# pyright: reportMissingImports=false
# The host's own modules exist only inside it.

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ....core.errors import ControlError
from ..request.services import services
from . import paste
from .gradio_shim import on
from .presets import Presets
from .unit.events import as_message
from .unit.widgets import UnitPage, tool

FOLDER = ("controlstack", "presets")  # inside the host's data
SAVED = (*paste.PASTED, "low_vram", "inpaint_crop_input_image")


def presets() -> Presets:
    """The host's."""
    from modules import paths

    return Presets(Path(paths.data_path).joinpath(*FOLDER))


def build_row(page: UnitPage) -> None:
    """Draw the row inside the current container."""
    import gradio as gr
    from modules.ui_components import FormRow

    with FormRow(elem_classes=["cnet-presets"]):
        page.extras["preset"] = gr.Dropdown(
            label="Preset", choices=presets().names, value=None, elem_id=page.id("preset")
        )
        tool(page, "read_presets", "🔄", "Look for presets again", "preset_refresh")
        tool(page, "load_preset", "📂", "Load the preset", "preset_load")
        tool(page, "delete_preset", "🗑️", "Delete the preset", "preset_delete")
        page.extras["preset_name"] = gr.Textbox(
            label="Save as", placeholder="a name", max_lines=1, elem_id=page.id("preset_name")
        )
        tool(page, "save_preset", "💾", "Save the unit's settings under this name", "preset_save")


def connect(pages: Sequence[UnitPage]) -> None:
    """Connect the rows. What is saved in one unit, tab or browser can be loaded in all: lists are read as they open.

    A list of gradio 3 does not change while it is open: the page's script presses its button as the mouse comes near.
    """
    for page in pages:
        chosen, saved = page.extras["preset"], [page.extras["preset_name"], *page.pick(*SAVED)]
        targets = [page.extras[each] if each in page.extras else page.fields[each] for each in LOADED]
        for event in (chosen.focus, page.extras["read_presets"].click):
            on(event, _names, outputs=[chosen])
        on(page.extras["load_preset"].click, _reporting(_load), [chosen], targets)
        on(page.extras["save_preset"].click, _reporting(_save), saved, [chosen, page.extras["preset_name"]])
        on(page.extras["delete_preset"].click, _reporting(_delete), [chosen], [chosen])


LOADED = (*paste.PASTED, paste.TYPE, paste.SAID)


def _names() -> Any:
    import gradio as gr

    return gr.update(choices=presets().names)


def _load(name: str) -> list[Any]:
    import gradio as gr

    files = services().files
    values, problems = paste.widget_values(presets().load(name), files, services().program.basis)
    paste.warn(problems)
    changes = paste.updates(values, files.names, problems)
    return [changes.get(each, gr.update()) for each in LOADED]


def _save(name: str, *values: Any) -> list[Any]:
    import gradio as gr

    chosen = presets().save(name, dict(zip(SAVED, values, strict=True)))
    return [gr.update(choices=presets().names, value=chosen), ""]


def _delete(name: str) -> Any:
    import gradio as gr

    presets().delete(name)
    return gr.update(choices=presets().names, value=None)


def _reporting(run: Callable[..., Any]) -> Callable[..., Any]:
    def guarded(*given: Any) -> Any:
        try:
            return run(*given)
        except ControlError as error:
            raise as_message(error) from error

    return guarded
