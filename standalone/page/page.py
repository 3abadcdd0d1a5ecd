"""The page itself: prompt, cards and settings on the left, what comes of them on the right."""

# pyright: reportMissingImports=false
# gradio is an extra of its own, which not every environment has.

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from ...core.errors import ControlError
from ...pipelines import tiny_world
from ...pipelines.request import LARGEST_HIRES, Request
from ...pipelines.schedulers import NAMES
from ...preprocessors.images import read_image
from ...units.saying import Say
from ..studio import offers
from ..studio.comparing import axes
from ..studio.copies import FORMS
from ..studio.restoring import Restored, restore
from ..studio.running import Studio
from ..studio.said import EACH_LINE, ETA_OF, MOST_PICTURES, MOST_SIDE, SEEDS
from . import card_events, results, run_events
from .api import add_endpoints
from .cards import build_card, new_unit
from .run_events import Form, Outputs, Sessions, the_job
from .words import language_of, speaker, t

QUIET: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
STEPS, GUIDANCE = 20, 7.5
TINY = {"steps": tiny_world.STEPS, "guidance": 2.0, "scheduler": "ddim"}  # what the tiny world was made for
KEPT = (3600, 24 * 3600)  # seconds between two looks for old files, and that a file is kept


def build_page(studio: Studio) -> gr.Blocks:
    """Return the page of a studio."""
    sessions = Sessions()
    with gr.Blocks(title="ControlStack", analytics_enabled=False, fill_width=True, delete_cache=KEPT) as page:
        gr.HTML("<h1>ControlStack</h1>", elem_classes=["cs-title"])
        state = gr.State([new_unit(offers.initial(studio.library))])
        last = gr.State([])
        wrong = gr.State(None)
        language = gr.State("en")
        with gr.Row(elem_classes=["cs-columns"]):
            with gr.Column(scale=6, min_width=340):
                outer = _words()
                _add_examples(studio, state)
                slot = gr.Column(elem_classes=["cs-units"])
                add = gr.Button(t("Add a unit"), elem_id="add-unit")
                outer |= _settings(studio)
            with gr.Column(scale=5, min_width=340, elem_classes=["cs-results"]):
                shown = _results()
                tools = _tools()
        _connect_outer(studio, outer, state, tools)
        shown["stop"].click(_stop(sessions), None, None, queue=False, **QUIET)
        with slot:

            @gr.render(inputs=[state, language], show_progress="hidden")
            def draw_cards(units: Sequence[Any], spoken: str) -> None:
                steps, say = _usual(studio)["steps"], speaker(spoken)
                plans = [card_events.first_plan(studio.library, unit["said"], steps, say) for unit in units]
                numbered = zip(units, range(1, len(units) + 1), plans, strict=True)
                cards = [build_card(studio.library, *each) for each in numbered]
                _connect(_Page(studio, sessions, outer, shown, tools, state, last, add, wrong), cards)

        page.load(_language, None, language, **QUIET)
        add_endpoints(studio)
    return page


def _language(request: gr.Request) -> str:
    return language_of(request)


@dataclass(frozen=True)
class _Page:
    """What the cards are connected to."""

    studio: Studio
    sessions: Sessions
    outer: Mapping[str, Any]
    shown: Mapping[str, Any]
    tools: Mapping[str, Any]
    state: Any
    last: Any
    add: Any
    wrong: Any


def _connect(page: _Page, cards: Sequence[Any]) -> None:
    """Connect cards that are just drawn, and the buttons that read all of them."""
    for card in cards:
        card_events.connect(card, page.studio, page.outer, page.last)
        card_events.connect_message(card, page.wrong)
    fresh = lambda: new_unit(offers.initial(page.studio.library))  # noqa: E731
    card_events.connect_stack(cards, page.state, page.add, fresh)
    form = Form(outer=page.outer, cards=cards)
    shown = page.shown
    outputs = Outputs(
        progress=shown["progress"], preview=shown["preview"], gallery=shown["gallery"], report=shown["report"],
        files=shown["files"], last=page.last, wrong=page.wrong,
    )  # fmt: skip
    run_events.connect(page.studio, page.sessions, form, outputs, {**page.tools, "generate": shown["generate"]})

    def copy(kind: str, *values: Any) -> str:
        try:
            return FORMS[kind](page.studio.library, the_job(page.studio, form, values))
        except ControlError as error:
            return str(error)

    page.tools["copy"].click(copy, [page.tools["form"], *form.inputs], page.tools["text"], **QUIET)


def _words() -> dict[str, Any]:
    prompt = gr.Textbox(label=t("Prompt"), lines=2, elem_id="prompt")
    with gr.Accordion(t("More words"), open=False):
        added = gr.Textbox(label=t("Added prompt"), elem_id="added")
        negative = gr.Textbox(label=t("Negative prompt"), elem_id="negative")
        each_line = gr.Checkbox(label=t("A picture for each line of the prompt"), value=False, elem_id="each-line")
        clip_skip = gr.Slider(
            1, 12, value=1, step=1, label=t("Clip skip"), info=t("Of SD 1.x; 1 is the last layer"), elem_id="clip-skip"
        )
    return {"prompt": prompt, "added": added, "negative": negative, EACH_LINE: each_line, "clip_skip": clip_skip}


def _settings(studio: Studio) -> dict[str, Any]:
    """Draw the fields of the picture and return them by name."""
    library = studio.library
    first = next(iter(library.bases))
    side = studio.side(first)
    usual = _usual(studio)
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
                1, 150, value=usual["steps"], step=1, label=t("Steps"), elem_id="steps", min_width=140
            )
            found["guidance"] = gr.Slider(0, 30, value=usual["guidance"], step=0.1, label=t("Guidance"), min_width=140)
            found["scheduler"] = gr.Dropdown(list(NAMES), value=usual["scheduler"], label=t("Scheduler"), min_width=140)
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
                0, 1, value=0, step=0.05, label=t("Eta"), min_width=140, visible=usual["scheduler"] == ETA_OF
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


def _usual(studio: Studio) -> dict[str, Any]:
    """Return steps, guidance and scheduler that a page begins with."""
    usual = {"steps": STEPS, "guidance": GUIDANCE, "scheduler": Request().scheduler}
    return {**usual, **(TINY if studio.library.tiny else {})}


def _results() -> dict[str, Any]:
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


def _tools() -> dict[str, Any]:
    found: dict[str, Any] = {}
    with gr.Accordion(t("Compare"), open=False, elem_id="compare"):
        gr.Markdown(t("One seed without control, under each unit alone, and under all:"), padding=True)
        found["compare"] = gr.Button(t("Compare the units"), elem_id="compare-units")
        gr.Markdown(t("A grid over any two fields, with values such as 0.5; 1; 1.5:"), padding=True)
        for name, label in (("x", "Columns"), ("y", "Rows")):
            with gr.Row():
                found[name] = gr.Dropdown(axes(1), value="", label=t(label), elem_id=f"axis-{name}", min_width=140)
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


def _connect_outer(studio: Studio, outer: dict[str, Any], state: Any, tools: Mapping[str, Any]) -> None:
    """Connect what does not belong to a card; takes buttons out of `outer`, which then holds fields alone."""
    dice = outer.pop("dice")
    for each in (*outer.values(), *(tools[name] for name in ("x", "x_values", "y", "y_values", "form", "restore"))):
        each.interactive = True  # what reads them is drawn later, and until then gradio takes them for results
    dice.click(lambda: secrets.randbelow(SEEDS), None, outer["seed"], **QUIET)
    outer["scheduler"].change(lambda name: gr.update(visible=name == ETA_OF), outer["scheduler"], outer["eta"], **QUIET)
    outer["base"].input(lambda name: [studio.side(name)] * 2, outer["base"], [outer["width"], outer["height"]], **QUIET)
    for name in ("x", "y"):
        state.change(lambda units: gr.update(choices=axes(len(units))), state, tools[name], **QUIET)
    _connect_restoring(studio, outer, state, tools)


def _connect_restoring(studio: Studio, outer: Mapping[str, Any], state: Any, tools: Mapping[str, Any]) -> None:
    outputs = [tools["remarks"], state, *outer.values()]

    def show(request: gr.Request, path: str | None) -> list[Any]:
        nothing = [gr.skip() for _ in outputs[1:]]
        if path is None:
            return ["", *nothing]
        try:
            found = restore(Path(path), studio.library)
        except ControlError as error:
            return [results.trouble(str(error)), *nothing]
        return [
            _remarks(found, speaker(language_of(request))),
            [new_unit(each) for each in found.units],
            *_outer_values(found, outer),
        ]

    tools["restore"].upload(show, tools["restore"], outputs, **QUIET)


def _remarks(found: Restored, say: Say) -> str:
    said = say("The settings are in place.") if not found.remarks else ""
    return f"<p>{said}</p>" + "".join(map(results.trouble, found.remarks))


def _outer_values(found: Restored, outer: Mapping[str, Any]) -> list[Any]:
    """Return the fields of the picture that a restored picture says; the others stay."""
    said = {**found.request, "start_from": _editor_value(found.request)}
    return [said[name] if name in said else gr.skip() for name in outer]


def _editor_value(said: Mapping[str, Any]) -> Any:
    import numpy as np

    image, mask = said.get("image"), said.get("mask")
    if image is None:
        return None
    layers = [] if mask is None else [np.dstack([np.full_like(image, 255), mask])]
    return {"background": image, "layers": layers, "composite": None}


def _add_examples(studio: Studio, state: Any) -> None:
    """Draw a button for each control of the shipped world, which makes a card with a picture and that control."""
    if not studio.library.tiny:
        return
    pictures = sorted(tiny_world.IMAGES.glob("*.png"))
    with gr.Row(elem_classes=["cs-examples"]):
        for name, picture in zip(studio.library.models, pictures, strict=False):
            said = {**offers.initial(studio.library), "model": name}
            gr.Button(f"{t('Example')}: {name}", size="sm", min_width=110, elem_id=f"example-{name}").click(
                lambda said=said, picture=picture: [new_unit({**said, "image": read_image(picture)})],
                None, state, **QUIET,
            )  # fmt: skip


def _stop(sessions: Sessions) -> Any:
    def stop(request: gr.Request) -> None:
        sessions.stop(request.session_hash or "")

    return stop
