"""The choice of a preprocessor on a node: its inputs, drawn from the declarations of the registry."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from comfy_api.latest import io

from ..preprocessors import find, offered
from ..preprocessors.declaration import Parameter
from ..preprocessors.perform import Preprocessor
from ..preprocessors.registry import names
from ..units.offer import offer_of, offers
from ..units.request import AUTO, NONE

ABOUT = "All of them with samples, sizes and licences: docs/preprocessors.md, and this node's help page."
WORDS = (  # of the trade, for the search; the names of preprocessors come on top
    "controlnet", "controlnet preprocessor", "controlnet union", "controlnet inpaint",
    "control", "hint", "aux", "annotator", "edges", "lines", "soft edge",
    "line art", "sketch", "depth map", "normal map", "pose", "skeleton", "segmentation", "seg", "union", "reference",
    "inpaint", "invert", "tile", "blur", "face mesh", "hed", "teed", "xdog", "midas", "zoe", "leres", "bae", "sam",
)  # fmt: skip
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


def preprocessor_input(
    tooltip: str, *, auto: bool = False, among: Sequence[Preprocessor] | None = None
) -> io.DynamicCombo.Input:
    """Return the choice of a preprocessor; only the parameters of the chosen one are shown.

    auto: whether the model's own file may choose. among: what is offered; None is everything.
    """
    options = [io.DynamicCombo.Option(each.id, _inputs(each)) for each in (offered() if among is None else among)]
    if auto:
        options.append(io.DynamicCombo.Option(AUTO, []))
        tooltip += " auto is the one that the model's file names."
    return io.DynamicCombo.Input(CHOICE, options, tooltip=f"{tooltip} {_lacking()}{ABOUT}".strip())


def unusable(choice: Mapping[str, Any] | None) -> str:
    """Return why a choice, as the host validates it, cannot run here; empty if it can, were it after a download."""
    if choice is None:
        return "the preprocessor is none of ours: choose one from the list"  # the host leaves unknown choices out
    if choice[CHOICE] == AUTO:
        return ""
    found = offer_of(find(choice[CHOICE]))
    return f"{found.preprocessor.id} cannot run here: {found.lacks}" if found.lacks else ""


def words() -> tuple[str, ...]:
    """Return the words by which people look for a preprocessor: kinds of hints, and every name that one has."""
    kinds = [kind.lower() for each in offered() for kind in each.control_types]
    own = [name.lower().replace("_", " ") for each in offered() for name in names(each) if each.id != NONE]
    return tuple(dict.fromkeys((*WORDS, *kinds, *own)))


def _lacking() -> str:
    """Return how many choices cannot run here; the host's list has no way to grey one out."""
    found = offers()
    lacking = sum(1 for each in found if each.lacks)
    return f"{lacking} of {len(found)} lack a package here and say which when they are run. " if lacking else ""


def _inputs(preprocessor: Preprocessor) -> list[io.WidgetInput]:
    own: list[io.WidgetInput] = [_input(parameter) for parameter in preprocessor.parameters]
    if preprocessor.deterministic:
        return own
    seed = "Another number, another result."
    return [*own, io.Int.Input(SEED, default=0, min=0, max=LARGEST_SEED, optional=True, tooltip=seed)]


def _input(parameter: Parameter) -> io.WidgetInput:
    kind = io.Int if parameter.integer else io.Float
    return kind.Input(
        parameter.name,
        display_name=parameter.label,
        default=parameter.default,
        min=parameter.minimum,
        max=parameter.maximum,
        step=parameter.step,
        optional=True,  # a prompt through the API may leave it out
        tooltip=parameter.doc,
    )
