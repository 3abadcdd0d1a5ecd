"""The accordion. (Arguments only; the widgets follow.)"""

# pyright: reportMissingImports=false
# The host's own modules exist only inside it.

from __future__ import annotations

from typing import Any

from .arguments import SLOTS


def build(_script: Any, _is_img2img: bool) -> list[Any]:
    """All arguments of the script, in the order of `arguments`."""
    import gradio as gr

    return [gr.State(None) for _ in range(SLOTS)]
