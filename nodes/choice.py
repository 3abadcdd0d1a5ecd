"""The choice of a preprocessor on a node: its inputs, drawn from the declarations of the registry."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from comfy_api.latest import io

from ..preprocessors import find, offered
from ..preprocessors.declaration import Parameter
from ..preprocessors.perform import Preprocessor
from ..units.offer import offer_of, offers
from ..units.request import AUTO

CHOICE = "preprocessor"  # of the input that chooses one; its parameters come beside it
SEED, LARGEST_SEED = "seed", 2**32 - 1  # of preprocessors that draw lots
RESOLUTION = io.Int.Input(
    "resolution",
    default=0,
    min=0,
    max=8192,
    step=8,
    tooltip="Short side, in pixels, at which the preprocessor works; 0 is the picture's own size.",
)


def preprocessor_input(tooltip: str, *, auto: bool = False) -> io.DynamicCombo.Input:
    """Return the choice of a preprocessor; only the parameters of the chosen one are shown.

    auto: whether the model's own file may choose.
    """
    options = [io.DynamicCombo.Option(each.id, _inputs(each)) for each in offered()]
    if auto:
        options.append(io.DynamicCombo.Option(AUTO, []))
        tooltip += " auto is the one that the model's file names."
    return io.DynamicCombo.Input(CHOICE, options, tooltip="\n".join((tooltip, *_terms(), *_greyed())))


def unusable(choice: Mapping[str, Any] | None) -> str:
    """Return why a choice, as the host validates it, cannot run here; empty if it can, were it after a download."""
    if choice is None:
        return "the preprocessor is none of ours: choose one from the list"  # the host leaves unknown choices out
    if choice[CHOICE] == AUTO:
        return ""
    found = offer_of(find(choice[CHOICE]))
    return f"{found.preprocessor.id} cannot run here: {found.lacks}" if found.lacks else ""


def _terms() -> Iterator[str]:
    """Yield the licences of weights, each with the preprocessors that it is for."""
    known = {each.preprocessor.id: each.licences for each in offers() if each.licences}
    for terms in dict.fromkeys(known.values()):
        yield f"Weights, {terms}: {', '.join(name for name, own in known.items() if own == terms)}."


def _greyed() -> Iterator[str]:
    """Yield what cannot run here, by the reason; the host's list has no way to grey out a choice."""
    lacks = {each.preprocessor.id: each.lacks for each in offers() if each.lacks}
    for reason in dict.fromkeys(lacks.values()):
        yield f"Cannot run here, {reason}: {', '.join(name for name, own in lacks.items() if own == reason)}."


def _inputs(preprocessor: Preprocessor) -> list[io.WidgetInput]:
    own: list[io.WidgetInput] = [_input(parameter) for parameter in preprocessor.parameters]
    if preprocessor.deterministic:
        return own
    return [*own, io.Int.Input(SEED, default=0, min=0, max=LARGEST_SEED, tooltip="Another number, another result.")]


def _input(parameter: Parameter) -> io.WidgetInput:
    kind = io.Int if parameter.integer else io.Float
    return kind.Input(
        parameter.name,
        display_name=parameter.label,
        default=parameter.default,
        min=parameter.minimum,
        max=parameter.maximum,
        step=parameter.step,
        tooltip=parameter.doc,
    )
