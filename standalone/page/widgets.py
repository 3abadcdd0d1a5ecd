"""Widgets that gradio does not have."""

# pyright: reportMissingImports=false
# gradio is an extra of its own, which not every environment has.

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gradio as gr


def range_slider(value: Sequence[float], named: Mapping[str, Any]) -> Any:
    """Return a slider with two ends; its value is [start, end]."""
    return gr.HTML(
        list(value),
        html_template=_resource("range.html"),
        js_on_load=_resource("range.js"),
        apply_default_css=False,
        **named,
        elem_classes=["cs-range"],
        min_width=180,
    )


def dragging() -> Any:
    """Return what watches for cards that are dragged; its value is [from, to, which drag of the page it is]."""
    return gr.HTML([0, 0, 0], html_template="<i></i>", js_on_load=_resource("drag.js"), elem_classes=["cs-dragging"])


def _resource(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")
