"""The row below a unit that keeps its settings under a name."""

# pyright: reportMissingImports=false
# The host's own modules exist only inside it.

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ...core.errors import ControlError
from . import paste
from .gradio_shim import on
from .presets import Presets
from .services import services
from .unit_page import UnitPage, as_message, tool

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
        tool(page, "load_preset", "📂", "Load the preset", "preset_load")
        tool(page, "delete_preset", "🗑️", "Delete the preset", "preset_delete")
        page.extras["preset_name"] = gr.Textbox(
            label="Save as", placeholder="a name", max_lines=1, elem_id=page.id("preset_name")
        )
        tool(page, "save_preset", "💾", "Save the unit's settings under this name", "preset_save")


def connect(pages: Sequence[UnitPage]) -> None:
    """Connect the rows; what is saved in one unit can be loaded in all."""
    lists = [page.extras["preset"] for page in pages]
    for page in pages:
        name = page.extras["preset"]
        targets = [page.extras["type"] if each == paste.CONTROL_TYPE else page.fields[each] for each in LOADED]
        on(page.extras["load_preset"].click, _reporting(_load), [name], targets)
        saving = _changes_list(_save, page.index, len(lists))
        on(
            page.extras["save_preset"].click,
            _reporting(saving),
            [page.extras["preset_name"], *page.pick(*SAVED)],
            lists,
        )
        deleting = _changes_list(_delete, page.index, len(lists))
        on(page.extras["delete_preset"].click, _reporting(deleting), [name], lists)


LOADED = (*paste.PASTED, paste.CONTROL_TYPE)


def _load(name: str) -> list[Any]:
    values, problems = paste.widget_values(presets().load(name), services().files, services().host.basis)
    paste.warn(problems)
    return list(paste.updates(values, services().files.names).values())


def _save(name: str, *values: Any) -> str | None:
    return presets().save(name, dict(zip(SAVED, values, strict=True)))


def _delete(name: str) -> str | None:
    presets().delete(name)
    return None


def _changes_list(change: Callable[..., str | None], index: int, count: int) -> Callable[..., Any]:
    """After a change all units list the presets anew; the one where it happened shows the name that is left."""
    import gradio as gr

    def run(*given: Any) -> Any:
        chosen = change(*given)
        names = presets().names
        updates = [gr.update(choices=names) for _ in range(count)]
        updates[index] = gr.update(choices=names, value=chosen)
        return updates if count > 1 else updates[0]

    return run


def _reporting(run: Callable[..., Any]) -> Callable[..., Any]:
    def guarded(*given: Any) -> Any:
        try:
            return run(*given)
        except ControlError as error:
            raise as_message(error) from error

    return guarded
