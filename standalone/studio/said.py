"""What a page says -> requests: one dictionary for the picture and one for each unit, with the names of their tables.

The same dictionaries come from the page's widgets and from clients of the API. Pictures are pixels by then: a text
where a picture should be is refused, so no request can name a file.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from ...core.errors import ControlError, HostError, UnitError
from ...core.options import Option
from ...pipelines.loras.file import Lora, read_lora
from ...pipelines.request import Request
from ...pipelines.schedulers import scheduler_name
from ...units.record import PICTURES
from ...units.request import FIELDS, NONE, UnitRequest, read_request
from ...units.text import read_number, read_whole, shown
from ..asked import RANDOM_SEED, SEEDS
from .library import Library

OPTION = "option {}"  # of a card: the value of an option of its model, by the place among those of its file
EACH_LINE = "each_line"  # of a page: whether each line of the prompt is a picture's
RANGE = "range"  # of a card: start and end, by one widget
MOST_PICTURES, MOST_STEPS, MOST_SIDE = 64, 1000, 4096  # that one request of a visitor may ask for
MOST_CHARACTERS = 10_000  # of a prompt: a word without blanks takes the tokeniser the square of its length
LISTS = ("prompt", "loras")  # fields that may be several
ETA_OF = "ddim"  # the one scheduler that takes eta


class UnitProblemError(ControlError):
    """What is wrong with one unit; `number` counts the cards from 1."""

    def __init__(self, number: int, error: ControlError) -> None:
        super().__init__(str(error))
        self.number = number


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What is drawn at once: a base by name, a request, and the units that are on, with their numbers."""

    base: str
    request: Request
    units: tuple[UnitRequest, ...] = ()
    numbers: tuple[int, ...] = ()


def make_job(library: Library, said: Mapping[str, Any], units: Sequence[Mapping[str, Any]]) -> Job:
    """Return the job of what was said; HostError, or UnitProblemError for what is wrong with a unit."""
    base = str(said.get("base") or next(iter(library.bases)))
    library.base(base)
    request = make_request(library, {name: value for name, value in said.items() if name != "base"})
    read = [(number, _unit(library, number, each)) for number, each in enumerate(units, start=1)]
    active = [(number, each) for number, each in read if each.enabled]
    return Job(
        base=base,
        request=request,
        units=tuple(each for _, each in active),
        numbers=tuple(number for number, _ in active),
    )


def make_request(library: Library, said: Mapping[str, Any]) -> Request:
    """Return the request of what was said apart from units; a seed of -1 is drawn by chance."""
    known = {each.name: each for each in fields(Request)}
    if unknown := [name for name in said if name not in (*known, "added", EACH_LINE)]:
        raise HostError(f"a request has no '{unknown[0]}': it has {', '.join((*known, 'added', 'base', 'units'))}")
    given = {name: value for name, value in said.items() if value is not None}  # a field that nobody has seen is None
    plain = {name: value for name, value in given.items() if name in known and name not in LISTS}
    values = {name: _typed(name, value, known[name].default) for name, value in plain.items()}
    values["loras"] = tuple(_lora(library, each) for each in _listed("loras", given.get("loras", [])))
    prompts = _prompts(given)
    if len(prompts) > 1:
        values["batch"] = len(prompts)
    if values.get("seed", RANDOM_SEED) == RANDOM_SEED:
        values["seed"] = secrets.randbelow(SEEDS)
    if scheduler_name(values.get("scheduler", ETA_OF)) != ETA_OF:
        values.pop("eta", None)  # the page hides it
    _check_limits(values)
    return Request(**{**values, "prompt": prompts if len(prompts) > 1 else "".join(prompts)})


def _prompts(given: Mapping[str, Any]) -> tuple[str, ...]:
    """Return one prompt for all pictures or one for each, with the added words behind each."""
    said, added = given.get("prompt", ""), str(given.get("added", "")).strip()
    if isinstance(said, list):
        several = [str(each) for each in _listed("prompt", said)]
    else:
        several = str(said).splitlines() if given.get(EACH_LINE) else [str(said)]
    found = [each.strip() for each in several if each.strip()] or [""]
    longest = max(map(len, (*found, str(given.get("negative", ""))))) + len(added)
    if longest > MOST_CHARACTERS:
        raise HostError(f"a prompt has {longest} characters, expected at most {MOST_CHARACTERS}: shorten it")
    return tuple(", ".join(part for part in (each, added) if part) for each in found)


def _listed(name: str, value: object) -> list[Any]:
    if not isinstance(value, list):
        raise HostError(f"{name} is {type(value).__name__}, expected a list of texts")
    return value


def _lora(library: Library, said: object) -> Lora:
    """Return a LoRA that is offered; HostError for any other, so that no file can be named."""
    named = read_lora(str(said))
    return Lora(str(library.lora(named.path)), named.weight)


def unit_request(library: Library, said: Mapping[str, Any]) -> UnitRequest:
    """Return the request of a unit as a card or a client says it; UnitError and others say what is wrong."""
    words = {name: value for name, value in said.items() if value is not None and name not in PICTURES}
    if RANGE in words:
        both = words.pop(RANGE)
        if not isinstance(both, (list, tuple)) or len(both) != 2:
            raise UnitError(f"{RANGE} is {shown(both)}, expected start and end, such as [0, 0.6]")
        words |= dict(zip(("start", "end"), both, strict=True))
    pixels = {name: _pixels(name, said.get(name)) for name in PICTURES if said.get(name) is not None}
    model = str(words.get("model") or "")
    known = library.model(model).options if model else ()
    words = _with_options(words, known)
    return read_request({**words, "model": model, "preprocessor": words.get("preprocessor") or NONE}, **pixels)


def _with_options(words: dict[str, Any], known: Sequence[Option]) -> dict[str, Any]:
    """Return what a unit says with the lists of its model's options joined to the options that it names itself."""
    lists = [(each, words.pop(OPTION.format(k), None)) for k, each in enumerate(known)]
    rest = {name: value for name, value in words.items() if not name.startswith(OPTION.format(""))}
    chosen = {each.name: value for each, value in lists if value not in (None, "", str(each.default))}
    if not chosen:
        return rest
    return {**rest, "options": {**chosen, **FIELDS["options"].read("options", rest.get("options", {}))}}


def _unit(library: Library, number: int, said: Mapping[str, Any]) -> UnitRequest:
    try:
        request = unit_request(library, said)
        if request.enabled and request.image is None:
            raise UnitError("it has no picture: drop one into it, or switch it off")
        if request.enabled and not request.model:
            raise UnitError("it has no model: choose one, or switch it off")
    except ControlError as error:
        raise UnitProblemError(number, error) from error
    return request


def _pixels(name: str, value: object) -> np.ndarray[Any, Any]:
    rank = PICTURES[name]
    if not isinstance(value, np.ndarray) or value.dtype != np.uint8 or value.ndim != rank:
        raise UnitError(f"{name} is {type(value).__name__}, expected pixels: no file can be named here")
    return value


def _typed(name: str, value: Any, default: object) -> Any:
    """Return a value in the type of its default, as forms and JSON give numbers."""
    if isinstance(default, str):
        return str(value).strip()
    if default is None:
        if value is not None and not isinstance(value, np.ndarray):
            raise HostError(f"{name} is {type(value).__name__}, expected pixels: no file can be named here")
        return value
    try:
        return read_whole(name, value) if isinstance(default, int) else read_number(name, value)
    except UnitError as error:
        raise HostError(str(error)) from error


def size_of(width: object, height: object) -> tuple[int, int]:
    """Return the (height, width) that a client asks for. HostError for what is no size of a picture."""
    sides = {"width": width, "height": height}
    read = {name: _typed(name, value, MOST_SIDE) for name, value in sides.items()}
    _check_limits(read)
    if wrong := next((name for name, side in read.items() if side < 1), None):
        raise HostError(f"{wrong} is {read[wrong]}, expected 1 to {MOST_SIDE}")
    return read["height"], read["width"]


def _check_limits(values: Mapping[str, Any]) -> None:
    for name, most in (("batch", MOST_PICTURES), ("steps", MOST_STEPS), ("width", MOST_SIDE), ("height", MOST_SIDE)):
        if values.get(name, 1) > most:
            raise HostError(f"{name} is {values[name]}, expected at most {most}")
    side = max(values.get("width", 1), values.get("height", 1)) * values.get("hires", 1.0)
    if side > MOST_SIDE:
        raise HostError(f"the hires pass has sides of {side:g} pixels, expected at most {MOST_SIDE}")
