"""Where gradio 3.41 (AUTOMATIC1111, reForge) and 4.40 (Forge) differ, so that the page is written once."""

# pyright: reportMissingImports=false, reportCallIssue=false
# The host's own modules exist only inside it; its gradio has other parameters than the one of the standalone page.

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from functools import cache
from typing import Any, NamedTuple

BRUSH = 20  # pixels, for drawing on a picture


def is_old() -> bool:
    """Return whether this is gradio 3."""
    import gradio as gr

    return gr.__version__.startswith("3.")


class Picture(NamedTuple):
    """A picture to upload: what holds it, and what holds a drawing on it where that is not the same."""

    image: Any
    drawn: Any


def picture(label: str, elem_id: str, *, draw: bool = False, height: int | None = None) -> Picture:
    """Draw a picture to upload; draw: the user can paint a mask on it.

    gradio 4's own editor stops the whole page while it lies in a closed accordion, so Forge's is used where there is
    one; elsewhere a mask has to be uploaded.
    """
    import gradio as gr

    common: dict[str, Any] = {"label": label, "elem_id": elem_id, "type": "numpy", "height": height}
    if is_old():
        tool = {"tool": "sketch", "brush_radius": BRUSH} if draw else {}
        image = gr.Image(source="upload", mirror_webcam=False, image_mode="RGBA", **tool, **common)
        return Picture(image, gr.State(None))
    canvas = _forge_canvas() if draw else None
    if canvas is None:
        image = gr.Image(sources=["upload", "webcam", "clipboard"], image_mode="RGBA", **common)
        return Picture(described_once(image), gr.State(None))
    gr.HTML(label, elem_classes=["cnet-canvas-label"])  # a canvas has none
    made = canvas(elem_id=elem_id, contrast_scribbles=True, height=height, numpy=True)
    for each in (made.background, made.foreground):
        each.do_not_save_to_config = True
    return Picture(made.background, made.foreground)


def film(label: str, elem_id: str) -> Any:
    """Return what holds a film that somebody uploads; its value is the path of the file."""
    import gradio as gr

    source: dict[str, Any] = {"source": "upload"} if is_old() else {"sources": ["upload"]}
    return described_once(gr.Video(label=label, elem_id=elem_id, **source))


def on_upload(image: Any, checkbox: Any) -> None:
    """Let a picture that somebody gives tick a box."""
    if hasattr(image, "upload"):
        on(image.upload, None, outputs=[checkbox], script="() => true")
    else:
        on(image.change, None, [image, checkbox], [checkbox], script="(image, ticked) => ticked || Boolean(image)")


def on_load(run: Callable[..., Any], inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
    """Connect the opening of the page, whose widgets are being made now."""
    from gradio.context import Context

    assert Context.root_block is not None
    on(Context.root_block.load, run, inputs, outputs)


def _forge_canvas() -> Any:
    try:
        from modules_forge.forge_canvas.canvas import ForgeCanvas
    except ImportError:
        return None
    return ForgeCanvas


def shown(label: str, elem_id: str, *, height: int | None = None) -> Any:
    """Draw a picture that only the program sets."""
    import gradio as gr

    return described_once(gr.Image(label=label, elem_id=elem_id, type="numpy", interactive=False, height=height))


def described_once(component: Any) -> Any:
    """Return a component that holds files, whose values gradio 4 describes once for all of its kind.

    Else it makes a JSON schema for each of them, each time that it looks at the whole page, three times in a start.
    """
    if is_old():
        return component
    kind, describe, known = (type(component), component.data_model), component.api_info, _descriptions()

    def api_info() -> dict[str, Any]:
        if kind not in known:
            known[kind] = describe()
        return deepcopy(known[kind])

    component.api_info = api_info
    return component


@cache
def _descriptions() -> dict[tuple[type, Any], dict[str, Any]]:
    """Return what was described already, by the class of the component and the form of its values."""
    return {}


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


def on_any(
    events: Sequence[Any], run: Callable[..., Any], inputs: Sequence[Any] = (), outputs: Sequence[Any] = ()
) -> None:
    """Connect several events with one function: gradio 4 keeps one listener for them, which costs its start less.

    What happens while the function runs, runs it once more behind it, as gradio 4 does for changes by itself.
    """
    import gradio as gr

    if is_old():
        for event in events:
            on(event, run, inputs, outputs)
        return
    gr.on(
        list(events), run, list(inputs), list(outputs),
        queue=False, show_progress="hidden", trigger_mode="always_last",
    )  # fmt: skip


def with_drawing(value: Any, drawn: Any = None) -> Any:
    """Return what a picture's components sent, whichever gradio it is, as {"image", "mask"}; None if it is empty.

    gradio 3 sends such a dictionary itself; Forge's canvas sends the drawing apart, as [H, W, 4] with the strokes
    opaque. What is neither, such as a picture of a client, stays as it is.
    """
    if isinstance(value, Mapping):
        return None if value.get("image") is None else value
    if value is None or drawn is None:
        return value
    import numpy as np

    return {"image": value, "mask": np.where(drawn[..., 3] > 0, 255, 0).astype(np.uint8)}
