"""The fields of the picture, the buttons of a run, and the tools beside them: widgets by name, connected elsewhere."""

# pyright: reportMissingImports=false
# gradio is an extra of its own, which not every environment has.

from __future__ import annotations

from typing import Any

import gradio as gr

from ...pipelines import tiny_world
from ...pipelines.request import LARGEST_HIRES, Request
from ...pipelines.schedulers import NAMES
from ..studio.comparing import axes
from ..studio.copies import FORMS
from ..studio.running import Studio
from ..studio.said import EACH_LINE, ETA_OF, MOST_PICTURES, MOST_SIDE
from .widgets import Choice
from .words import t

STEPS, GUIDANCE = 20, 7.5
TINY = {"steps": tiny_world.STEPS, "guidance": 2.0, "scheduler": "ddim"}  # what the tiny world was made for


def words(studio: Studio) -> dict[str, Any]:
    """Draw the fields of the prompt, and the button `describe`; return them by name."""
    prompt = gr.Textbox(label=t("Prompt"), lines=2, elem_id="prompt")
    with gr.Accordion(t("More words"), open=False, elem_id="more-words"):
        with gr.Row(elem_classes=["cs-describe"]):
            found = studio.captioner is not None
            describe = gr.Button(
                t("Automatic prompt"), size="sm", scale=0, min_width=160, interactive=found, elem_id="describe"
            )
            lacking = t(
                "It needs a model that describes pictures: run "
                "'controlstack get Salesforce/blip-image-captioning-base' and start the page again, or start it with "
                "--captioner FOLDER."
            )
            gr.HTML("" if found else lacking, elem_classes=["cs-about"], elem_id="describe-about")
        added = gr.Textbox(label=t("Added prompt"), elem_id="added")
        negative = gr.Textbox(label=t("Negative prompt"), elem_id="negative")
        each_line = gr.Checkbox(label=t("A picture for each line of the prompt"), value=False, elem_id="each-line")
        clip_skip = gr.Slider(
            1, 12, value=1, step=1, label=t("Clip skip"), info=t("Of SD 1.x; 1 is the last layer"), elem_id="clip-skip"
        )
    return {
        "prompt": prompt,
        "describe": describe,
        "added": added,
        "negative": negative,
        EACH_LINE: each_line,
        "clip_skip": clip_skip,
    }


def settings(studio: Studio) -> dict[str, Any]:
    """Draw the fields of the picture and return them by name."""
    library = studio.library
    first = next(iter(library.bases))
    side = studio.side(first)
    begins = usual(studio)
    found: dict[str, Any] = {}
    with gr.Accordion(t("Settings"), open=True, elem_id="settings"):
        found["base"] = gr.Dropdown(
            list(library.bases), value=first, label=t("Base model"), elem_id="base", visible=len(library.bases) > 1
        )
        with gr.Row():
            for name, label in (("width", "Width"), ("height", "Height")):
                found[name] = gr.Slider(
                    64, MOST_SIDE // 2, value=side, step=8, label=t(label), elem_id=name, min_width=140
                )
            found["batch"] = gr.Slider(
                1, MOST_PICTURES, value=1, step=1, label=t("Number of pictures"), elem_id="batch", min_width=140
            )
        with gr.Row():
            found["steps"] = gr.Slider(
                1, 150, value=begins["steps"], step=1, label=t("Steps"), elem_id="steps", min_width=140
            )
            found["guidance"] = gr.Slider(0, 30, value=begins["guidance"], step=0.1, label=t("Guidance"), min_width=140)
            found["scheduler"] = gr.Dropdown(
                list(NAMES), value=begins["scheduler"], label=t("Scheduler"), min_width=140
            )
        with gr.Row():
            found["seed"] = gr.Number(
                value=-1,
                precision=0,
                label=t("Seed"),
                info=t("-1 is a new one each time"),
                elem_id="seed",
                min_width=140,
            )
            found["dice"] = gr.Button("🎲", elem_id="dice", elem_classes=["cs-tool", "cs-dice"], min_width=50, scale=0)
            found["eta"] = gr.Slider(
                0, 1, value=0, step=0.05, label=t("Eta"), min_width=140, visible=begins["scheduler"] == ETA_OF
            )
        found["loras"] = gr.Dropdown(
            list(library.loras), value=[], multiselect=True, allow_custom_value=True, label=t("LoRAs"), elem_id="loras",
            info=t("A name, or a name with a weight: detail:0.8"), visible=bool(library.loras),
        )  # fmt: skip
    found |= _hires()
    with gr.Accordion(t("Start from a picture"), open=False, elem_id="start"):
        gr.Markdown(t("What you paint is redrawn; without paint the whole picture changes."), padding=True)
        found["start_from"] = gr.ImageEditor(
            label=t("Picture"), type="numpy", format="png", layers=False, elem_id="start-from", canvas_size=(512, 512),
            brush=gr.Brush(colors=["#ffffff"], default_size=24),
        )  # fmt: skip
        found["strength"] = gr.Slider(0.05, 1, value=Request().strength, step=0.05, label=t("Strength"))
    return found


def _hires() -> dict[str, Any]:
    said = Request()
    with gr.Accordion(t("Draw it again, larger"), open=False, elem_id="second-pass"), gr.Row():
        return {
            "hires": gr.Slider(
                1, LARGEST_HIRES / 2, value=1, step=0.05, label=t("Times larger"), info=t("1 is no second pass"),
                elem_id="hires", min_width=140,
            ),
            "hires_steps": gr.Slider(
                0, 150, value=0, step=1, label=t("Steps"), info=t("0 is as many as before"), elem_id="hires-steps",
                min_width=140,
            ),
            "hires_strength": gr.Slider(
                0.05, 1, value=said.hires_strength, step=0.05, label=t("Strength"), elem_id="hires-strength",
                min_width=140,
            ),
        }  # fmt: skip


def usual(studio: Studio) -> dict[str, Any]:
    """Return steps, guidance and scheduler that a page begins with."""
    begins = {"steps": STEPS, "guidance": GUIDANCE, "scheduler": Request().scheduler}
    return {**begins, **(TINY if studio.library.tiny else {})}


def results() -> dict[str, Any]:
    """Draw the buttons of a run and what shows its results; return them by name."""
    found: dict[str, Any] = {}
    with gr.Row(elem_classes=["cs-run"]):
        found["generate"] = gr.Button(t("Generate"), variant="primary", elem_id="generate", scale=4, min_width=120)
        found["stop"] = gr.Button(t("Stop"), variant="secondary", elem_id="stop", scale=1, min_width=80)
    found["progress"] = gr.HTML(elem_id="progress", elem_classes=["cs-progress"])
    found["preview"] = gr.Image(
        label=t("So far"), visible=False, interactive=False, format="png", height=200, elem_id="so-far", buttons=[]
    )
    found["gallery"] = gr.Gallery(
        label=t("Pictures"), columns=3, height=520, object_fit="contain", elem_id="gallery", format="png",
        buttons=["download", "fullscreen"], interactive=False,
    )  # fmt: skip
    found["report"] = gr.HTML(elem_id="report", elem_classes=["cs-report"])
    found["files"] = gr.Files(
        label=t("Pictures with all their settings"), visible=False, elem_id="files", interactive=False
    )
    return found


def tools() -> dict[str, Any]:
    """Draw what compares, what restores and what copies settings; return it by name."""
    found: dict[str, Any] = {}
    with gr.Accordion(t("Compare"), open=False, elem_id="compare"):
        gr.Markdown(t("One seed without control, under each unit alone, and under all:"), padding=True)
        found["compare"] = gr.Button(t("Compare the units"), elem_id="compare-units")
        gr.Markdown(t("A grid over any two fields, with values such as 0.5; 1; 1.5:"), padding=True)
        for name, label in (("x", "Columns"), ("y", "Rows")):
            with gr.Row():
                found[name] = Choice(axes(1), value="", label=t(label), elem_id=f"axis-{name}", min_width=140)
                found[f"{name}_values"] = gr.Textbox(label=t("Values"), elem_id=f"axis-{name}-values", min_width=140)
        found["grid"] = gr.Button(t("Draw the grid"), elem_id="draw-grid")
    with gr.Accordion(t("Settings from a picture"), open=False, elem_id="restore"):
        found["restore"] = gr.File(
            label=t("Drop a picture of ControlStack or of a WebUI"), file_types=["image"], type="filepath", height=120,
            elem_id="restore-file",
        )  # fmt: skip
        found["remarks"] = gr.HTML(elem_classes=["cs-report"], elem_id="remarks")
    with gr.Accordion(t("Take the settings along"), open=False, elem_id="take"):
        found["form"] = gr.Radio(list(FORMS), value=next(iter(FORMS)), show_label=False, elem_id="form")
        found["copy"] = gr.Button(t("Show as text"), elem_id="show-text")
        found["text"] = gr.Textbox(show_label=False, lines=4, max_lines=12, buttons=["copy"], elem_id="text")
    return found
