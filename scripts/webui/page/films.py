"""The widgets of the script "controlnet m2m": a film or a picture for each unit, and how long a frame lasts."""

# pyright: reportMissingImports=false
# The host's own modules exist only inside it.

from __future__ import annotations

from typing import Any

from .gradio_shim import film, picture
from .settings import unit_count


def build(is_img2img: bool) -> list[Any]:
    """Return the arguments: film, picture, whether hints are kept, for each unit; then milliseconds of a frame."""
    import gradio as gr

    tab = "img2img" if is_img2img else "txt2img"
    found: list[Any] = []
    with gr.Accordion("ControlNet-M2M", open=True, elem_id=f"{tab}_controlnet_m2m"):
        with gr.Tabs():
            for number in range(unit_count()):
                with gr.Tab(f"ControlNet-{number}"):
                    found += _unit(f"{tab}_controlnet_m2m", number)
        found.append(gr.Slider(label="Milliseconds of a frame", value=50.0, minimum=10.0, maximum=200.0, step=10))
    return found


def _unit(prefix: str, number: int) -> list[Any]:
    import gradio as gr

    with gr.Tab("Movie Input"):
        moving = film("Film", f"{prefix}_video_{number}")
    with gr.Tab("Image Input"):
        still = picture("One picture for all frames", f"{prefix}_image_{number}").image
    return [moving, still, gr.Checkbox(label="Keep the hints as a film too", value=False)]
