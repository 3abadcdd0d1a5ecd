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
from .gradio_shim import on, on_any
from .presets import Presets
from .unit.widgets import UnitPage, tool

FOLDER = ("controlstack", "presets")  # inside the host's data
SAVED = (*paste.PASTED, "low_vram", "inpaint_crop_input_image")


def presets() -> Presets:
    """Return the presets of the host's data."""
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
    page.extras["preset_said"] = gr.HTML(elem_id=page.id("preset_said"), elem_classes=["cnet-plan"])


def connect(pages: Sequence[UnitPage]) -> None:
    """Connect the rows. What is saved in one unit, tab or browser can be loaded in all: lists are read as they open.

    A list of gradio 3 does not change while it is open: the page's script presses its button as the mouse comes near.
    """
    for page in pages:
        chosen, saved = page.extras["preset"], [page.extras["preset_name"], *page.pick(*SAVED)]
        targets = [page.extras[each] if each in page.extras else page.fields[each] for each in LOADED]
        on_any([chosen.focus, page.extras["read_presets"].click], _names, outputs=[chosen])
        said = page.extras["preset_said"]
        for button, run, inputs, outputs in (
            ("load_preset", _load, [chosen], targets),
            ("save_preset", _save, saved, [chosen, page.extras["preset_name"]]),
            ("delete_preset", _delete, [chosen], [chosen]),
        ):
            on(page.extras[button].click, _reporting(run, len(outputs)), inputs, [*outputs, said])


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


def _delete(name: str) -> list[Any]:
    import gradio as gr

    presets().delete(name)
    return [gr.update(choices=presets().names, value=None)]


def _reporting(run: Callable[..., list[Any]], count: int) -> Callable[..., list[Any]]:
    """Return what changes so many widgets and, last, the line that says what is wrong.

    An error that is raised would leave red marks on the widgets.
    """

    def guarded(*given: Any) -> list[Any]:
        import gradio as gr

        try:
            return [*run(*given), ""]
        except ControlError as error:
            return [*[gr.update()] * count, paste.line(str(error), wrong=True)]

    return guarded
