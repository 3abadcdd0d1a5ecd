"""What a card offers for what is chosen in it: names, sliders and sentences, computed without a page.

Preprocessors and control types come from `units/offer.py`, fields and their bounds from `units/request.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...core.options import Option
from ...core.schedule import RangeBasis, fires_on, progress_at
from ...preprocessors import Parameter, find, offered
from ...preprocessors.networks.network import file_name
from ...preprocessors.networks.store import Store
from ...units.offer import (
    ALL,
    FILELESS_TYPES,
    models_of_type,
    of_hint,
    of_several_kinds,
    of_type,
    offer_of,
    shown_by,
    types,
)
from ...units.request import AUTO, FIELDS, NONE, Field, UnitRequest
from ...units.saying import Say
from .library import Library

OWN_WIDGETS = ("image", "preprocessor", "parameters", "model", "start", "end", "effect_mask", "inpaint_mask")
IN_SIGHT = ("weight", "mode", "resize")  # fields that every card shows; further ones are one click away
HEADING = "enabled"
SHOWN_WEIGHT = 2.0  # the end of sliders of weights; a text and a client may say more


@dataclass(frozen=True, slots=True)
class Chosen:
    """What follows from a choice: preprocessor and model, and the preprocessor's numbers."""

    preprocessor: str
    model: str
    parameters: Mapping[str, float]


def preprocessors(control_type: str, store: Store | None = None, say: Say = str.format) -> list[tuple[str, str]]:
    """Return (label, name) of the preprocessors of a control type; those that cannot run here say so."""
    own = [(_label(each.id, each.title, offer_of(each, store).lacks, say), each.id) for each in of_type(control_type)]
    return [(say("The model's own"), AUTO), *own]


def control_types(library: Library, say: Say = str.format) -> list[tuple[str, str]]:
    """Return (label, name) of the control types: those of which a model can act here, then others, which say why."""
    every = dict.fromkeys((*types(), *FILELESS_TYPES))
    lacks = {each: _lacks(library, each, say) for each in every}
    labels = [(f"{each} – {lack}" if lack else each, each) for each, lack in lacks.items()]
    return sorted(labels, key=lambda pair: bool(lacks[pair[1]]))


def models(library: Library, control_type: str, say: Say = str.format) -> list[tuple[str, str]]:
    """Return (label, name) of the models for a control type: by what their files say, else by their names."""
    names = _models_of(library, control_type)
    return [(say("None"), ""), *((library.models[name].label, name) for name in names)]


def choose_type(library: Library, control_type: str) -> Chosen:
    """Return what a control type chooses: its first preprocessor that runs here, and the first model for it."""
    if control_type == ALL:
        return Chosen(NONE, "", {})
    own = [each for each in of_type(control_type) if each.id != NONE] or [find(NONE)]
    usable = [each for each in own if not offer_of(each).lacks]
    names = [name for name in _models_of(library, control_type) if not library.models[name].unfit]
    model = names[0] if names else ""
    reads = library.models[model].reads if model else None
    return _fitted(library, (usable or own)[0].id if reads is None else reads, model)


def choose_preprocessor(library: Library, preprocessor: str, model: str) -> Chosen:
    """Return what a preprocessor chooses: a model that reads its hints, unless the present one does."""
    if preprocessor in (AUTO, NONE):
        return Chosen(preprocessor, model, {})
    readers = _readers(library, preprocessor)
    return _fitted(library, preprocessor, model if model in readers or not readers else readers[0])


def choose_model(library: Library, model: str, preprocessor: str) -> Chosen:
    """Return what a model chooses: the preprocessor that its file names, unless another is chosen already."""
    known = library.models.get(model)
    said = None if known is None else known.convention
    if known is not None and known.reads is not None and preprocessor in (AUTO, known.reads):
        return Chosen(known.reads, model, {})
    if said is None or preprocessor not in (AUTO, NONE):
        return _fitted(library, preprocessor, model)
    return Chosen(said.preprocessor.id, model, said.parameters)


def numbers(preprocessor: str) -> tuple[Parameter, ...]:
    """Return the numbers of a preprocessor, in the order of its sliders."""
    return () if preprocessor == AUTO else find(preprocessor).parameters


def most_numbers() -> int:
    """Return how many sliders a card needs at most."""
    return max(len(each.parameters) for each in offered())


def options(library: Library, model: str) -> tuple[Option, ...]:
    """Return what a card can tell a model; nothing for none."""
    known = library.models.get(model)
    return () if known is None else known.options


def option_words(option: Option, preprocessor: str, say: Say = str.format) -> list[tuple[str, str]]:
    """Return (label, word) of the words of an option; what follows from the preprocessor is said."""
    shown = shown_by(preprocessor, option) if option.of_hint else None
    usual = say("{word}: {kind}, as the preprocessor", word=option.default, kind=shown)
    return [(usual if shown and word == option.default else word, word) for word in option.words]


def most_options(library: Library) -> int:
    """Return how many lists of options a card needs at most."""
    return max((len(each.options) for each in library.models.values()), default=0)


def runs_at_once(library: Library, preprocessor: str, model: str) -> bool:
    """Return whether a hint is drawn while a slider moves: networks wait for a button."""
    known = library.models.get(model)
    if preprocessor != AUTO:
        return not find(preprocessor).networks
    return known is not None and known.convention is not None and not known.convention.preprocessor.networks


def about(preprocessor: str, store: Store | None = None, say: Say = str.format) -> str:
    """Return what a preprocessor does, what it lacks here, and the licence of its weights."""
    if preprocessor == AUTO:
        return say("The preprocessor that the model's own file names.")
    found = offer_of(find(preprocessor), store)
    parts = [say("It cannot run here: {reason}", reason=found.lacks) if found.lacks else say(found.preprocessor.doc)]
    if found.licences:
        parts.append(say("Licence of its weights: {licences}.", licences=found.licences))
    if found.fetches:
        files = ", ".join(file_name(file) for file in found.fetches)
        parts.append(say("{files} will be downloaded when it first runs.", files=files))
    return " ".join(parts)


def further_fields() -> Iterator[Field]:
    """Yield the fields that a card shows on demand; a new field of units appears by itself."""
    shown = (*OWN_WIDGETS, *IN_SIGHT, HEADING)
    yield from (each for each in FIELDS.values() if each.name not in shown)


def strengths(unit: UnitRequest, steps: int) -> tuple[float, ...]:
    """Return the weight of a unit at each step of a run."""
    if not (unit.acts and unit.model):
        return (0.0,) * steps
    return tuple(unit.weight * unit.schedule.multiplier(progress_at(index, steps)) for index in range(steps))


def plan(unit: UnitRequest, steps: int, say: Say = str.format) -> str:
    """Return on how many steps a unit acts, in words. say: puts a sentence into the visitor's language."""
    if not unit.enabled:
        return say("is off")
    if not unit.model:
        return say("has no model: choose one")
    fired = len(fires_on(unit.schedule, (progress_at(k, steps) for k in range(steps)))) if unit.acts else 0
    estimate = f" ({say('about: it depends on the scheduler')})" if unit.basis is RangeBasis.NOISE else ""
    return say("acts on {fired} of {steps} steps", fired=fired, steps=steps) + estimate


def drawing(levels: Sequence[float]) -> str:
    """Return the weights of a run's steps as a drawing of bars, for the page."""
    top = max(1.0, *(abs(level) for level in levels))
    width = 100 / len(levels)
    bars = "".join(
        f'<rect x="{k * width:.2f}" width="{max(0.2, width * 0.8):.2f}" y="{24 - 24 * abs(level) / top:.2f}" '
        f'height="{24 * abs(level) / top:.2f}"{" class=below" if level < 0 else ""} />'
        for k, level in enumerate(levels)
    )
    return f'<svg viewBox="0 0 100 24" preserveAspectRatio="none" aria-hidden="true">{bars}</svg>'


def initial(library: Library) -> dict[str, Any]:
    """Return what a new card says: it works at the size that the result needs."""
    model = next((name for name, each in library.models.items() if each.reads is None), "")
    return {"pixel_perfect": True, "model": model, "preprocessor": AUTO}


def _label(name: str, title: str, lacks: str, say: Say) -> str:
    if name == NONE:
        return say("None: the picture is the hint")
    return say("{title} – not here yet", title=say(title)) if lacks else say(title)


def _lacks(library: Library, control_type: str, say: Say) -> str:
    """Return why no model of a control type can act here; empty if one can."""
    reasons = [library.models[name].unfit for name in _models_of(library, control_type)]
    if control_type == ALL or not all(reasons):
        return ""
    return reasons[0] if reasons else say("no model here")


def _models_of(library: Library, control_type: str) -> list[str]:
    if control_type == ALL:
        return list(library.models)
    own = [each.id for each in of_type(control_type) if each.id != NONE]
    by_content = [name for each in own for name in _readers(library, each)]
    options = {name: each.options for name, each in library.models.items()}
    named = models_of_type(control_type, [name for name, each in options.items() if not of_several_kinds(each)])
    general = [name for name, each in options.items() if of_hint(each, control_type)]
    return list(dict.fromkeys((*by_content, *named, *general)))


def _readers(library: Library, preprocessor: str) -> list[str]:
    """Return the models whose files name a preprocessor, and which can act here."""
    said = {name: each.convention for name, each in library.models.items() if not each.unfit}
    return [name for name, each in said.items() if each is not None and each.preprocessor.id == preprocessor]


def _fitted(library: Library, preprocessor: str, model: str) -> Chosen:
    """Return a choice with the numbers that the model's file names for this very preprocessor."""
    known = library.models.get(model)
    said = None if known is None else known.convention
    fits = said is not None and said.preprocessor.id == preprocessor
    return Chosen(preprocessor, model, said.parameters if fits and said is not None else {})
