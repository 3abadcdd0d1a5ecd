"""Where gradio 3.41 (AUTOMATIC1111, reForge) and 4.40 (Forge) differ, so that the page is written once."""

# pyright: reportMissingImports=false
# The host's own modules exist only inside it.

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

BRUSH = 20  # pixels, for drawing on a picture


def is_old() -> bool:
    """Whether this is gradio 3."""
    import gradio as gr

    return gr.__version__.startswith("3.")


def picture(label: str, elem_id: str, *, draw: bool = False, height: int | None = None) -> Any:
    """A picture to upload; `draw`: the user can paint a mask on it."""
    import gradio as gr

    common: dict[str, Any] = {"label": label, "elem_id": elem_id, "type": "numpy"}
    if is_old():
        tool = {"tool": "sketch", "brush_radius": BRUSH} if draw else {}
        return gr.Image(source="upload", mirror_webcam=False, height=height, image_mode="RGBA", **tool, **common)
    sources = ["upload", "webcam", "clipboard"]
    if draw:
        brush = gr.Brush(default_size=BRUSH, colors=["#ffffff"], color_mode="fixed")
        return gr.ImageEditor(sources=sources, brush=brush, height=height, image_mode="RGBA", layers=False, **common)
    return gr.Image(sources=sources, height=height, **common)


def shown(label: str, elem_id: str, *, height: int | None = None) -> Any:
    """A picture that only the program sets."""
    import gradio as gr

    return gr.Image(label=label, elem_id=elem_id, type="numpy", interactive=False, height=height)


def on(
    event: Any,
    run: Callable[..., Any] | None,
    inputs: Sequence[Any] = (),
    outputs: Sequence[Any] = (),
    *,
    script: str | None = None,
    progress: bool = False,
) -> None:
    """Connect an event, such as `button.click`: `run` on the server, or `script` on the page, which may precede it."""
    options: dict[str, Any] = {"_js" if is_old() else "js": script} if script is not None else {}
    if not progress:
        options["show_progress"] = False if is_old() else "hidden"
    event(fn=run, inputs=list(inputs), outputs=list(outputs), queue=False, **options)


def with_drawing(value: Any) -> Any:
    """What an image component sent as {"image", "mask"}, whichever gradio it is; None if it is empty.

    gradio 4 sends the picture, layers with what was drawn, and both put together.
    """
    if not isinstance(value, Mapping) or "background" not in value:
        return None if isinstance(value, Mapping) and value.get("image") is None else value
    if value["background"] is None:
        return None
    return {"image": value["background"], "mask": _drawn(value)}


def _drawn(value: Mapping[str, Any]) -> Any:
    """All layers as one mask: 255 where any of them is painted."""
    import numpy as np

    mask = np.zeros(value["background"].shape[:2], np.uint8)
    for layer in value.get("layers") or ():
        mask = np.maximum(mask, np.where(layer[..., 3] > 0, 255, 0).astype(np.uint8))
    return mask
