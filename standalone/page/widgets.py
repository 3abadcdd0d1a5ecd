"""Widgets that gradio does not have, or has with a check that people who are quicker than the server run into."""

# pyright: reportMissingImports=false
# gradio is an extra of its own, which not every environment has.

from __future__ import annotations

from abc import ABCMeta
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gradio as gr


def _unchecked(kind: Any) -> Any:
    """Return a class of gradio's components whose values are not checked before they are read.

    A server knows of new entries and bounds before the browser does. gradio refuses what the browser sends in between,
    and with it everything that was clicked; whether a value may be is decided where it is read.
    """
    own = {"__module__": __name__, "is_template": True, "preprocess": lambda _self, payload: payload}
    return ABCMeta.__new__(
        type(kind), kind.__name__, (kind,), own
    )  # gradio's own __new__ writes a stub beside the code


Choice = _unchecked(gr.Dropdown)  # a list whose entries change
Slide = _unchecked(gr.Slider)  # a slider whose bounds change


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
