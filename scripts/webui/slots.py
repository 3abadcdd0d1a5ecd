"""The script called ControlNet as clients and other extensions see it: its title, and a slot for each unit."""

# pyright: reportMissingImports=false
# The host's own modules exist only inside it.

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .request.arguments import as_units, empty_slots

TITLE = "ControlNet"  # the name under which clients and other extensions address units


class Slots:
    """What the host asks for before any request: `ui` once for each tab, and `setup` at the begin of each request."""

    sorting_priority = 10
    create_group = False  # nothing of it is seen: the page is another script's
    args_from: int  # these two are set by the host
    args_to: int
    _api_info: Any = None

    def title(self) -> str:
        return TITLE

    def show(self, is_img2img: bool) -> object:
        from modules import scripts

        return scripts.AlwaysVisible

    def ui(self, is_img2img: bool) -> list[Any]:
        import gradio as gr

        return [gr.State(each) for each in empty_slots()]

    @property
    def api_info(self) -> Any:
        """Return what the host tells clients of the arguments (`/sdapi/v1/script-info`); the host sets it."""
        return self._api_info

    @api_info.setter
    def api_info(self, info: Any) -> None:
        for each in getattr(info, "args", None) or ():
            each.value = None  # the default of a slot is an object, which no answer can carry
        self._api_info = info

    def setup(self, p: Any, *args: Any) -> None:
        """Make units of clients' objects: the request is complete, and nobody has looked at it yet."""
        if any(isinstance(each, Mapping) for each in args):
            changed = list(p.script_args)
            changed[self.args_from : self.args_to] = as_units(args)
            p.script_args = type(p.script_args)(changed)
