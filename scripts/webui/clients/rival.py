"""Another extension that is called ControlNet already: then ours only says so.

Two scripts of one name share one title, one set of routes, settings and ids, and requests reach only the first. Forge
brings such an extension along.
"""

# pyright: reportMissingImports=false
# The host's own modules exist only inside it.

from __future__ import annotations

import html
import logging
from pathlib import Path
from typing import Any

log = logging.getLogger("controlstack")

FORGE = "sd_forge_controlnet"  # the folder of the one that Forge brings
PEER = "internal_controlnet"  # a folder inside sd-webui-controlnet


def find() -> str | None:
    """Return the name of an active extension that is called ControlNet too."""
    from modules import extensions

    return next((each.name for each in extensions.active() if is_rival(each.name, Path(each.path))), None)


def is_rival(name: str, path: Path) -> bool:
    """Return whether an extension registers what ours does."""
    return name == FORGE or (path / PEER).is_dir()


def advice(rival: str) -> str:
    """Return what the user should do."""
    return (
        f"The extension '{rival}' is called ControlNet too, and requests would reach only one of them, so ControlStack "
        f"is off. To use it, untick '{rival}' on the page Extensions and apply; to keep the other one, untick this one."
    )


def make_notice(rival: str) -> type:
    """Return a script that shows the advice, under a title of its own."""
    from modules import scripts

    log.warning(advice(rival))
    return type("ControlStackNotice", (Notice, scripts.Script), {"__module__": Notice.__module__, "rival": rival})


class Notice:
    """An accordion with a sentence."""

    rival = ""

    def title(self) -> str:
        return "ControlStack"

    def show(self, is_img2img: bool) -> object:
        from modules import scripts

        return scripts.AlwaysVisible

    def ui(self, is_img2img: bool) -> list[Any]:
        import gradio as gr

        with gr.Accordion("ControlStack", open=False, elem_id="controlstack_notice"):
            gr.HTML(html.escape(advice(self.rival)))
        return []
