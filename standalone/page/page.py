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
from ...units.saying import Say
from ..prompts import caption
from ..studio import offers
from ..studio.comparing import axes
from ..studio.copies import FORMS
from ..studio.examples import examples
from ..studio.restoring import Restored, restore
from ..studio.running import Studio
from ..studio.said import ETA_OF, SEEDS
from . import card_events, form, results, run_events
from .api import add_endpoints
from .cards import build_card, new_unit
from .run_events import Form, Outputs, Sessions, pictured, the_job
from .widgets import dragging
from .words import language_of, speaker, t

QUIET: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
KEPT = (3600, 24 * 3600)  # seconds between two looks for old files, and that a file is kept


def build_page(studio: Studio) -> gr.Blocks:
    """Return the page of a studio."""
    sessions = Sessions()
    with gr.Blocks(title="ControlStack", analytics_enabled=False, fill_width=True, delete_cache=KEPT) as page:
        gr.HTML("<h1>ControlStack</h1>", elem_classes=["cs-title"])
        state = gr.State([new_unit(offers.initial(studio.library))])
        last = gr.State([])
        order = dragging()
        wrong = gr.State(None)
        language = gr.State(None)  # told when the page is loaded
        with gr.Row(elem_classes=["cs-columns"]):
            with gr.Column(scale=6, min_width=340):
                outer = form.words(studio)
                _add_examples(studio, state)
                slot = gr.Column(elem_classes=["cs-units"])
                add = gr.Button(t("Add a unit"), elem_id="add-unit")
                outer |= form.settings(studio)
            with gr.Column(scale=5, min_width=340, elem_classes=["cs-results"]):
                shown = form.results()
                tools = {**form.tools(), "describe": outer.pop("describe")}
        _connect_outer(studio, outer, state, tools)
        shown["stop"].click(_stop(sessions), None, None, queue=False, **QUIET)
        with slot:
            # Not when the page is loaded but when its language is known, or all cards would be drawn twice, and what is
            # clicked in between would be a button that is there no more.
            @gr.render(inputs=[state, language], triggers=[state.change, language.change], show_progress="hidden")
            def draw_cards(units: Sequence[Any], spoken: str) -> None:
                steps, say = form.usual(studio)["steps"], speaker(spoken)
                plans = [card_events.first_plan(studio.library, unit["said"], steps, say) for unit in units]
                numbered = zip(units, range(1, len(units) + 1), plans, strict=True)
                cards = [build_card(studio.library, *each, say) for each in numbered]
                _connect(_Page(studio, sessions, outer, shown, tools, state, last, add, order, wrong), cards)

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
    order: Any
    wrong: Any


def _connect(page: _Page, cards: Sequence[Any]) -> None:
    """Connect cards that are just drawn, and the buttons that read all of them."""
    for card in cards:
        card_events.connect(card, page.studio, page.outer, page.last)
        card_events.connect_message(card, page.wrong)
    fresh = lambda: new_unit(offers.initial(page.studio.library))  # noqa: E731
    card_events.connect_stack(cards, page.state, page.add, page.order, fresh)
    told = Form(outer=page.outer, cards=cards)
    shown = page.shown
    outputs = Outputs(
        progress=shown["progress"], preview=shown["preview"], gallery=shown["gallery"], report=shown["report"],
        files=shown["files"], last=page.last, wrong=page.wrong,
    )  # fmt: skip
    run_events.connect(page.studio, page.sessions, told, outputs, {**page.tools, "generate": shown["generate"]})

    def copy(kind: str, *values: Any) -> str:
        try:
            return FORMS[kind](page.studio.library, the_job(page.studio, told, values))
        except ControlError as error:
            return str(error)

    def describe(*values: Any) -> list[Any]:
        try:
            return [caption(page.studio.captioner, pictured(*told.read(values))), ""]
        except ControlError as error:
            return [gr.skip(), results.trouble(str(error))]

    describing = [page.outer["prompt"], shown["progress"]]
    page.tools["describe"].click(describe, told.inputs, describing, concurrency_id="draw", api_visibility="private")
    page.tools["copy"].click(copy, [page.tools["form"], *told.inputs], page.tools["text"], **QUIET)


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
    """Draw a button for each control of the shipped world, which makes cards with pictures and that control."""
    if not (found := examples(studio.library)):
        return
    with gr.Row(elem_classes=["cs-examples"]):
        gr.HTML(t("Examples"), elem_classes=["cs-label"])
        for number, each in enumerate(found, start=1):
            gr.Button(t(each.title), size="sm", min_width=90, scale=0, elem_id=f"example-{number}").click(
                lambda each=each: [new_unit(said) for said in each.units()], None, state, **QUIET
            )


def _stop(sessions: Sessions) -> Any:
    def stop(request: gr.Request) -> None:
        sessions.stop(request.session_hash or "")

    return stop
