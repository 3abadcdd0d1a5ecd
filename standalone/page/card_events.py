"""What a card does: choices that follow from choices, the live hint, the plan, painting, and its place in the stack."""

# pyright: reportMissingImports=false
# gradio is an extra of its own, which not every environment has.

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import gradio as gr
import numpy as np

from ...core.errors import ControlError, UnitError
from ...preprocessors import Output, find
from ...preprocessors.images import read_image
from ...units.convention import chosen as with_convention
from ...units.hint import draw_hint, to_show
from ...units.offer import preprocessor_of
from ...units.request import FIELDS
from ...units.saying import Say
from ..studio import offers
from ..studio.library import Library
from ..studio.running import Studio
from ..studio.said import OPTION, RANGE, unit_request
from . import results
from .cards import HINT, SLIDER, Card, Unit, new_unit, option_lists, read_card, sliders
from .words import language_of, speaker

HIDDEN: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
LIVE: dict[str, Any] = {**HIDDEN, "trigger_mode": "always_last", "concurrency_limit": 4, "concurrency_id": "preview"}
PLANNED = ("enabled", "weight", RANGE, "basis", "curve", "model")  # of what a card says: what its plan follows from
HALF = 128  # of 255: a brush stroke's alpha from which on it counts


@dataclass(frozen=True, slots=True)
class _Outside:
    """What the page says beside the cards: height and width of the result, and its steps."""

    size: tuple[int, int]
    steps: int


def connect(card: Card, studio: Studio, outer: Mapping[str, Any], last: Any) -> None:
    """Connect the widgets of a card. outer: the page's width, height and steps. last: the files of the last run."""
    _connect_choices(card, studio, outer)
    _connect_hint(card, studio, outer)
    _connect_plan(card, studio.library, outer["steps"])
    _connect_painting(card, last)


def connect_message(card: Card, wrong: Any) -> None:
    """Show on a card what is wrong with it. wrong: the state with the number of a card and a sentence, or None."""

    def show(said: tuple[int, str] | None) -> str:
        return said[1] if said is not None and said[0] == card.number else ""

    wrong.change(show, wrong, card.others["message"], **HIDDEN)


def _connect_choices(card: Card, studio: Studio, outer: Mapping[str, Any]) -> None:
    """Connect the three lists: a choice changes the others, the sliders and options that are shown, and the hint.

    All of it is one event: a second one, after it, would fail where cards are drawn anew in between.
    """
    library, fields, names = studio.library, card.fields, list(card.fields)
    numbers = [fields[SLIDER.format(k)] for k in range(offers.most_numbers())]
    lists_of_options = [fields[OPTION.format(k)] for k in range(offers.most_options(library))]
    outputs = [fields["preprocessor"], fields["model"], *numbers, *lists_of_options]
    outputs += [card.others[name] for name in ("preview", "about", "hint", "message", "plan")]

    def show(chosen: offers.Chosen, said: Mapping[str, Any], outside: _Outside, **lists: Any) -> list[Any]:
        now = after_choice(said, chosen)
        return [
            gr.update(value=chosen.preprocessor, **({"choices": lists["preprocessors"]} if lists else {})),
            gr.update(value=chosen.model, **({"choices": lists["models"]} if lists else {})),
            *(gr.update(**each) for each in sliders(chosen.preprocessor, chosen.parameters, card.say)),
            *(gr.update(**each) for each in option_lists(library, chosen.model, chosen.preprocessor, {}, card.say)),
            gr.update(visible=not offers.runs_at_once(library, chosen.preprocessor, chosen.model)),
            escape(offers.about(chosen.preprocessor, studio.runtime.store, card.say)),
            *_live(studio, now, outside.size),
            plan(library, {name: now[name] for name in PLANNED}, outside.steps, card.say),
        ]

    def by_type(kind: str, said: Mapping[str, Any], outside: _Outside) -> list[Any]:
        found = offers.choose_type(library, kind)
        lists = {"preprocessors": offers.preprocessors(kind, say=card.say)}
        return show(found, said, outside, models=offers.models(library, kind, card.say), **lists)

    def by_preprocessor(_kind: str, said: Mapping[str, Any], outside: _Outside) -> list[Any]:
        return show(offers.choose_preprocessor(library, said["preprocessor"], said["model"]), said, outside)

    def by_model(_kind: str, said: Mapping[str, Any], outside: _Outside) -> list[Any]:
        return show(offers.choose_model(library, said["model"], said["preprocessor"]), said, outside)

    def connect(widget: Any, choose: Callable[[str, Mapping[str, Any], _Outside], list[Any]]) -> None:
        def act(kind: str, width: float, height: float, steps: float, *values: Any) -> list[Any]:
            outside = _Outside((int(height), int(width)), int(steps or 1))
            return choose(kind, read_card(names, values), outside)

        beside = [outer[name] for name in ("width", "height", "steps")]
        widget.input(act, [card.others["type"], *beside, *fields.values()], outputs, **LIVE)

    connect(card.others["type"], by_type)
    connect(fields["preprocessor"], by_preprocessor)
    connect(fields["model"], by_model)


def after_choice(said: Mapping[str, Any], chosen: offers.Chosen) -> dict[str, Any]:
    """Return what a card says once a choice is carried out: numbers and options are those that were chosen with it."""
    kept = {name: value for name, value in said.items() if not name.startswith(OPTION.format(""))}
    numbers = {each.name: each.default for each in offers.numbers(chosen.preprocessor)}
    chosen_words = {"preprocessor": chosen.preprocessor, "model": chosen.model}
    return {**kept, **chosen_words, "parameters": {**numbers, **chosen.parameters}}


def _connect_hint(card: Card, studio: Studio, outer: Mapping[str, Any]) -> None:
    names = list(card.fields)
    inputs = [outer["width"], outer["height"], *card.fields.values()]
    outputs = [card.others["hint"], card.others["message"]]

    def live(width: float, height: float, *values: Any) -> list[Any]:
        return _live(studio, read_card(names, values), (int(height), int(width)))

    def on_button(width: float, height: float, *values: Any) -> list[Any]:
        return _preview(studio, read_card(names, values), (int(height), int(width)))

    # Sliders by hand alone: a choice moves them too, and draws the hint itself.
    drawn_from = ("image", "resize", "resolution", "pixel_perfect", "seed", "inpaint_mask")
    triggers = [card.fields[name].change for name in drawn_from]
    triggers += [card.fields[name].input for name in _slider_names()]
    gr.on([*triggers, outer["width"].change, outer["height"].change], live, inputs, outputs, **LIVE)
    card.others["preview"].click(
        on_button, inputs, outputs, api_visibility="private", concurrency_id="draw", show_progress_on=outputs[:1]
    )


def _live(studio: Studio, said: Mapping[str, Any], size: tuple[int, int]) -> list[Any]:
    """Return the hint and the message of a card that says something else now; networks wait for their button."""
    if said["image"] is None:
        return [None, ""]
    live = offers.runs_at_once(studio.library, said["preprocessor"], said["model"] or "")
    return _preview(studio, said, size) if live else [gr.skip(), ""]


def _preview(studio: Studio, said: Mapping[str, Any], size: tuple[int, int]) -> list[Any]:
    try:
        return [hint_of(studio, said, size), ""]
    except ControlError as error:
        return [None, results.trouble(str(error))]


def hint_of(studio: Studio, said: Mapping[str, Any], size: tuple[int, int]) -> Any:
    """Return the hint of a card as its model would read it, uint8 [H, W, 3]. ControlErrors say what is wrong."""
    request = unit_request(studio.library, said)
    known = studio.library.models.get(request.model)
    request = with_convention(request, known.says if known else "")
    if request.image is None:
        raise UnitError("the unit has no picture: give it one")
    image: Any = request.image
    mask: Any = request.inpaint_mask
    hint = draw_hint(request, image, inpaint_mask=mask, target=size, runtime=studio.runtime)
    shown = to_show(hint, image, preprocessor_of(request))
    is_picture = find(request.preprocessor).output is not Output.EMBEDDING
    return results.fitted(shown, size, request.resize) if is_picture else shown


def _slider_names() -> list[str]:
    return [SLIDER.format(k) for k in range(offers.most_numbers())]


def _connect_plan(card: Card, library: Library, steps: Any) -> None:
    inputs = [steps, *(card.fields[name] for name in PLANNED)]

    def show(request: gr.Request, count: float, *values: Any) -> str:
        said: dict[str, Any] = dict(zip(PLANNED, values, strict=True))
        return plan(library, said, int(count or 1), speaker(language_of(request)))

    chosen = card.fields["model"]  # which draws the plan itself, with all that it changes
    triggers = [each.change for each in inputs if each is not chosen and hasattr(each, "change")]
    gr.on([*triggers, card.fields[RANGE].input], show, inputs, card.others["plan"], **LIVE)


def first_plan(library: Library, said: Mapping[str, Any], steps: int, say: Say) -> str:
    """Return the plan of a card that is just made."""
    defaults = {name: FIELDS[name].default for name in (*PLANNED, "start", "end") if name != RANGE}
    return plan(library, {name: said.get(name, default) for name, default in defaults.items()}, steps, say)


def plan(library: Library, said: Mapping[str, Any], steps: int, say: Say) -> str:
    """Return on how many steps a unit acts and how strongly, as HTML; or what is wrong with it."""
    try:
        unit = unit_request(library, said)
    except ControlError as error:
        return results.trouble(str(error))
    return f"{offers.drawing(offers.strengths(unit, steps))}<span>{escape(offers.plan(unit, steps, say))}</span>"


def _connect_painting(card: Card, last: Any) -> None:
    editor, others = card.others["editor"], card.others
    quiet: dict[str, Any] = {"api_visibility": "private"}
    others["masks"].expand(lambda: gr.update(visible=True), None, editor, **HIDDEN)
    take: dict[str, Any] = {"show_progress": "hidden", **quiet}
    others["last"].click(lambda files: read_image(files[0]) if files else gr.skip(), last, card.fields["image"], **take)
    others["paint"].click(lambda image: image, card.fields["image"], editor, **quiet)
    others["keep_image"].click(
        lambda value: value and value["composite"][..., :3], editor, card.fields["image"], **quiet
    )
    for name in ("effect_mask", "inpaint_mask"):
        others[f"keep_{name}"].click(painted, editor, card.fields[name], **quiet)


def painted(value: Mapping[str, Any] | None) -> Any:
    """Return what was painted in an editor as a mask, white where a brush was, uint8 [H, W]; None for nothing."""
    if value is None:
        return None
    strokes = [layer[..., 3] for layer in value["layers"] if layer is not None and layer.shape[-1] == 4]
    if not strokes:
        return None
    mask = np.maximum.reduce(strokes)
    return np.where(mask >= HALF, 255, 0).astype(np.uint8) if mask.any() else None


def connect_stack(cards: Sequence[Card], state: Any, add: Any, order: Any, fresh: Callable[[], Unit]) -> None:
    """Connect what changes the stack: cards are drawn anew from what all of them say.

    add: the button for a new one. order: what says which card was dragged to which place.
    """
    inputs = [state, *(each for card in cards for each in (card.others[HINT], *card.fields.values()))]

    def connect(button: Any, change: Callable[[list[Unit]], list[Unit]]) -> None:
        def act(units: Sequence[Unit], *values: Any) -> list[Unit]:
            return change(said_now(units, cards, values))

        button.click(act, inputs, state, concurrency_limit=None, **HIDDEN)

    def drag(units: Sequence[Unit], said: Sequence[int], *values: Any) -> list[Unit]:
        return dragged(said_now(units, cards, values), said)

    order.input(drag, [state, order, *inputs[1:]], state, concurrency_limit=None, **HIDDEN)
    connect(add, lambda units: [*units, fresh()])
    for k, card in enumerate(cards):
        connect(card.others["up"], lambda units, k=k: moved(units, k, k - 1))
        connect(card.others["down"], lambda units, k=k: moved(units, k, k + 1))
        connect(card.others["remove"], lambda units, k=k: [*units[:k], *units[k + 1 :]])
        connect(
            card.others["duplicate"], lambda units, k=k: [*units[: k + 1], new_unit(units[k]["said"]), *units[k + 1 :]]
        )


def said_now(units: Sequence[Unit], cards: Sequence[Card], values: Sequence[Any]) -> list[Unit]:
    """Return units with what their cards say now. values: of each card, its hint and its fields."""
    found: list[Unit] = []
    rest = list(values)
    for unit, card in zip(units, cards, strict=True):
        hint, own, rest = rest[0], rest[1 : len(card.fields) + 1], rest[len(card.fields) + 1 :]
        found.append({**unit, "said": {**as_initial(read_card(list(card.fields), own)), HINT: hint}})
    return found


def as_initial(said: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a card says as what a new one begins with."""
    start, end = said[RANGE]
    return {**{name: value for name, value in said.items() if name != RANGE}, "start": start, "end": end}


def moved(units: Sequence[Unit], place: int, target: int) -> list[Unit]:
    """Return the units with one of them at another place; beyond the ends is at the end."""
    others = [*units[:place], *units[place + 1 :]]
    target = min(max(0, target), len(others))
    return [*others[:target], units[place], *others[target:]]


def dragged(units: Sequence[Unit], said: Sequence[int]) -> list[Unit]:
    """Return the units after a drag, such as [2, 0, 5]: the third to the first place, as the fifth drag of a page."""
    place, target = said[:2]
    return moved(units, place, target) if place < len(units) else list(units)  # of a stack that has changed since
