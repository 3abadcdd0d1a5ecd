"""The card of one unit: its widgets, by the names of the fields that they say.

A card is drawn from what it says. When cards are added, moved or removed, all are drawn anew from what they say then.
"""

# pyright: reportMissingImports=false
# gradio is an extra of its own, which not every environment has.

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import gradio as gr

from ...core.options import Option
from ...preprocessors import Parameter
from ...units.offer import ALL
from ...units.request import FIELDS, NONE, Field
from ...units.saying import Say
from ..studio import offers
from ..studio.library import Library
from ..studio.said import OPTION, RANGE
from .widgets import Choice, Slide, range_slider
from .words import t

Unit = Mapping[str, Any]  # of the page's state: the id of a card, and what it said when it was made

SLIDER = "number {}"
HINT = "hint"  # of what a card says: the picture of its hint, so that it need not be made again
TOOLS = {"up": "↑", "down": "↓", "duplicate": "❐", "remove": "✕"}  # their names are in page.js, for all languages
PICTURE_HEIGHT = 260  # pixels
EDITOR = (512, 512)  # pixels of the canvas before there is a picture
BRUSH = ("#ffffff", "#000000", "#ff3b30", "#34c759", "#007aff")


@dataclass(kw_only=True)
class Card:
    """The widgets of a card: those that say something, by field, and the others."""

    uid: str
    number: int
    said: Mapping[str, Any]
    say: Say = str.format  # into the visitor's language, for lists, which gradio does not translate
    fields: dict[str, Any] = field(default_factory=dict)
    others: dict[str, Any] = field(default_factory=dict)

    def value(self, name: str) -> Any:
        """Return what a field says when the card is made."""
        return self.said.get(name, FIELDS[name].default)

    def named(self, name: str) -> dict[str, Any]:
        """Return the id of a widget in the page, and its key, with which gradio also draws that it is empty."""
        place = f"unit-{self.number}-{name.replace('_', '-').replace(' ', '-')}"
        return {"elem_id": place, "key": (self.uid, name)}


def new_unit(said: Mapping[str, Any]) -> Unit:
    """Return a unit for the page's state."""
    return {"uid": secrets.token_hex(6), "said": dict(said)}


def build_card(library: Library, unit: Unit, number: int, plan: str = "", say: Say = str.format) -> Card:
    """Draw a card in the present container. plan: what its line about steps says at first."""
    card = Card(uid=unit["uid"], number=number, said=unit["said"], say=say)
    with gr.Column(elem_classes=["cs-card"], elem_id=f"unit-{number}"):
        _heading(card)
        _pictures(card)
        _choices(card, library)
        _options(card, library)
        _numbers(card, library)
        _strength(card, plan)
        _drawing(card)
        _further(card)
        card.others["message"] = gr.HTML(elem_classes=["cs-message"], **card.named("message"), padding=True)
    return card


def read_card(names: Sequence[str], values: Sequence[Any]) -> dict[str, Any]:
    """Return what a card says, by field, from its widgets' names and values."""
    found = dict(zip(names, values, strict=True))
    declared = offers.numbers(found.get("preprocessor") or NONE)
    given = [found.pop(SLIDER.format(k)) for k in range(offers.most_numbers())]
    found["parameters"] = {each.name: _within(each, value) for each, value in zip(declared, given, strict=False)}
    return found


def sliders(preprocessor: str, values: Mapping[str, float], say: Say = str.format) -> list[dict[str, Any]]:
    """Return the properties of a card's sliders for a preprocessor; those that it does not need are hidden."""
    shown = [
        {
            "visible": True,
            "label": f"{say(each.label)} ({say(each.unit)})" if each.unit else say(each.label),
            "info": say(each.doc),
            "minimum": each.minimum,
            "maximum": each.maximum,
            "step": each.step,
            "value": values.get(each.name, each.default),
        }
        for each in offers.numbers(preprocessor)
    ]
    return [*shown, *({"visible": False} for _ in range(offers.most_numbers() - len(shown)))]


def option_lists(
    library: Library, model: str, preprocessor: str, said: Mapping[str, Any], say: Say = str.format
) -> list[dict[str, Any]]:
    """Return the properties of a card's lists of options for a model; those that it does not need are hidden."""
    shown = [
        {
            "visible": True,
            "label": say(each.label),
            "info": say(each.meaning),
            "choices": offers.option_words(each, preprocessor, say) or _tenths(each),
            "value": str(said.get(each.name, each.default)),
        }
        for each in offers.options(library, model)
    ]
    return [*shown, *({"visible": False} for _ in range(offers.most_options(library) - len(shown)))]


def _tenths(option: Option) -> list[str]:
    """Return eleven values between the bounds of an option that is a number; any other may be typed."""
    if option.least is None or option.most is None:
        return []
    return [f"{option.least + (option.most - option.least) * k / 10:g}" for k in range(11)]


def _heading(card: Card) -> None:
    with gr.Row(elem_classes=["cs-heading"]):
        gr.HTML('<span class="cs-grip" aria-hidden="true">⠿</span>', elem_classes=["cs-grip-box"], padding=False)
        card.fields["enabled"] = gr.Checkbox(
            label=t("Unit"),
            value=card.value("enabled"),
            container=False,
            **card.named("enabled"),
            min_width=90,
            interactive=True,
        )
        for name, sign in TOOLS.items():
            card.others[name] = gr.Button(
                sign,
                size="sm",
                min_width=40,
                **card.named(name),
                elem_classes=["cs-tool", f"cs-{name}"],
            )


def _pictures(card: Card) -> None:
    with gr.Row(equal_height=True):
        card.fields["image"] = gr.Image(
            card.value("image"),
            label=t("Picture"),
            type="numpy",
            format="png",
            height=PICTURE_HEIGHT,
            sources=["upload", "clipboard", "webcam"],
            **card.named("image"),
            min_width=140,
            buttons=["fullscreen"],
            interactive=True,
        )
        card.others["hint"] = gr.Image(
            card.said.get(HINT),
            label=t("Hint, as the model reads it"),
            interactive=False,
            format="png",
            height=PICTURE_HEIGHT,
            **card.named("hint"),
            elem_classes=["cs-hint"],
            min_width=140,
            buttons=["download", "fullscreen"],
        )


def _choices(card: Card, library: Library) -> None:
    with gr.Row():
        card.others["type"] = gr.Dropdown(
            offers.control_types(library, card.say),
            value=ALL,
            label=t("Control type"),
            **card.named("type"),
            min_width=130,
            interactive=True,
        )
        card.fields["preprocessor"] = Choice(
            offers.preprocessors(ALL, say=card.say),
            value=card.value("preprocessor"),
            label=t("Preprocessor"),
            min_width=160,
            **card.named("preprocessor"),
            interactive=True,
        )
        card.fields["model"] = Choice(
            offers.models(library, ALL, card.say),
            value=card.value("model"),
            label=t("Model"),
            interactive=True,
            min_width=160,
            **card.named("model"),
        )
    about = offers.about(card.value("preprocessor"), say=card.say)
    card.others["about"] = gr.HTML(about, elem_classes=["cs-about"], padding=True)


def _options(card: Card, library: Library) -> None:
    said = FIELDS["options"].read("options", card.value("options"))
    lists = option_lists(library, card.value("model"), card.value("preprocessor"), said, card.say)
    with gr.Row():
        for k, each in enumerate(lists):
            name = OPTION.format(k)
            each["value"] = card.said.get(name) or each.get("value")
            card.fields[name] = gr.Dropdown(
                **each, allow_custom_value=True, interactive=True, min_width=180, **card.named(name)
            )
    shown = {each.name for each in offers.options(library, card.value("model"))}
    card.said = {**card.said, "options": {name: value for name, value in said.items() if name not in shown}}


def _numbers(card: Card, library: Library) -> None:
    properties = ["value", "visible", "label", "info", "minimum", "maximum", "step"]
    with gr.Row():
        for k, each in enumerate(sliders(card.value("preprocessor"), card.value("parameters"), card.say)):
            name = SLIDER.format(k)
            card.fields[name] = Slide(
                **each,
                interactive=True,
                **card.named(name),
                min_width=180,
                preserved_by_key=properties,
            )
        card.others["preview"] = gr.Button(
            t("Make the hint"),
            size="sm",
            **card.named("preview"),
            min_width=120,
            visible=not offers.runs_at_once(library, card.value("preprocessor"), card.value("model")),
        )


def _strength(card: Card, plan: str) -> None:
    with gr.Row(elem_classes=["cs-strength"]):
        card.fields["weight"] = _widget(card, FIELDS["weight"])
        card.fields[RANGE] = range_slider([card.value("start"), card.value("end")], card.named(RANGE))
    card.others["plan"] = gr.HTML(plan, elem_classes=["cs-plan"], **card.named("plan"), padding=True)
    with gr.Row():
        for name in ("mode", "resize"):
            card.fields[name] = _widget(card, FIELDS[name])


def _drawing(card: Card) -> None:
    with gr.Accordion(t("Draw, and masks"), open=False, **card.named("masks")) as whole:
        with gr.Row(elem_classes=["cs-buttons"]):
            card.others["last"] = gr.Button(t("Take the last result"), size="sm")
            card.others["paint"] = gr.Button(t("Take the picture"), size="sm")
            card.others["keep_image"] = gr.Button(t("Keep as the picture"), size="sm")
            card.others["keep_effect_mask"] = gr.Button(t("Keep as effect mask"), size="sm")
            card.others["keep_inpaint_mask"] = gr.Button(t("Keep as inpaint mask"), size="sm")
        card.others["editor"] = gr.ImageEditor(
            label=t("Draw here"),
            type="numpy",
            format="png",
            canvas_size=EDITOR,
            sources=["upload", "clipboard", "webcam"],
            brush=gr.Brush(colors=list(BRUSH), default_size=16),
            layers=False,
            **card.named("editor"),
            visible=False,
            interactive=True,
        )
        with gr.Row():
            for name, label in (("effect_mask", "Effect mask"), ("inpaint_mask", "Inpaint mask")):
                card.fields[name] = gr.Image(
                    card.value(name),
                    label=t(label),
                    type="numpy",
                    image_mode="L",
                    format="png",
                    height=160,
                    sources=["upload", "clipboard"],
                    **card.named(name),
                    min_width=140,
                    buttons=["fullscreen"],
                    interactive=True,
                )

    card.others["masks"] = whole  # the editor is made when it opens: a browser has few canvases of this kind


def _further(card: Card) -> None:
    with (
        gr.Accordion(t("More"), open=False, **card.named("more")),
        gr.Row(elem_classes=["cs-further"]),
    ):
        for each in offers.further_fields():
            card.fields[each.name] = _widget(card, each, explained=True)


def _widget(card: Card, about: Field, *, explained: bool = False) -> Any:
    """Return the widget of a field, chosen by what the field may be."""
    value = card.value(about.name)
    common: dict[str, Any] = {
        "label": t(about.name.replace("_", " ").capitalize()),
        **card.named(about.name),
        "info": t(about.meaning[0].upper() + about.meaning[1:]) if explained else None,
        "min_width": 180,
        "interactive": True,
    }
    if about.choices is not None:
        pairs = list(zip(map(card.say, about.choices.labels), about.choices.words, strict=True))
        word = value if isinstance(value, str) else value.value
        return gr.Dropdown(pairs, value=about.choices.read(about.name, word).value, **common)
    if isinstance(about.default, bool):
        return gr.Checkbox(value=value, **common)
    if about.least is not None and about.default is not None:
        low, high = (0.0, offers.SHOWN_WEIGHT) if about.least < 0 else (about.least, about.most)
        return gr.Slider(min(low, value), max(high, value), value=value, step=0.05, **common)
    empty = not value  # a field that may be left out is a text: a number cannot be empty
    return gr.Textbox(value=value if isinstance(value, str) else "" if empty else about.write(value), **common)


def _within(declared: Parameter, value: float | None) -> float:
    """Return a slider's value, or the default where it is still that of another preprocessor."""
    if value is None or not declared.minimum <= value <= declared.maximum:
        return declared.default
    return round(value) if declared.integer else value
