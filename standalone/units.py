"""Units as text: `image=edges.png,preprocessor=canny,model=canny.safetensors,weight=0.8` -> requests -> units.

A value may hold commas: a new pair begins only where a name and an equals sign follow. A value in quotation marks may
hold anything, as in `image="a,b=c.png"`. The names are those of `units/request.py`, and those of the preprocessor's
numbers.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.errors import UnitError
from ..models.kinds.fileless import FILELESS
from ..models.kinds.unions import OPTION, SHORT
from ..preprocessors import find
from ..units.offer import preprocessor_of
from ..units.request import AUTO, FIELDS, NONE, UnitRequest, read_request
from ..units.text import read_number, read_options
from ..units.webui.fileless import as_model

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from ..core.control import ControlModel
    from ..units.ready import Ready

    Image = NDArray[np.uint8]

# A name, and its value: in quotation marks, or up to the next name; a comma at the end of the text is no value.
PAIR = re.compile(
    r"""\s*(?P<name>\w+)\s*=\s*
    (?:(?P<quote>["'])(?P<quoted>.*?)(?P=quote)|(?P<plain>.*?))
    \s*(?:,\s*(?=[A-Za-z_]+\s*=)|,?\s*$)""",
    re.VERBOSE | re.DOTALL,
)
POSES = ".json"  # suffix of files with poses
NAMES = {name: each.name for each in FIELDS.values() for name in (each.short or each.name, each.name)}


def parse_unit(text: str) -> UnitRequest:
    """Read a unit; UnitError says what is unknown, missing or out of range.

    A model without a file may be named as the preprocessor, as in the WebUIs: then it is the model.
    """
    pairs = read_pairs(text)
    fileless = pairs["preprocessor"] if _is_fileless(pairs) else ""
    for name in ("image", "model"):
        if not pairs.get(name) and not (name == "model" and fileless):
            raise UnitError(f"the unit '{text}' has no {name}: add {name}=FILE")
    own: dict[str, object] = {name: value for name, value in pairs.items() if name in NAMES and name != "parameters"}
    numbers = {name: read_number(name, value) for name, value in pairs.items() if name not in (*NAMES, SHORT)}
    if pairs.get("preprocessor", AUTO) != AUTO:
        own["preprocessor"] = find(pairs["preprocessor"]).id
    if SHORT in pairs:
        own["options"] = _with_types(pairs)
    parameters = FIELDS["parameters"].read("parameters", pairs.get("parameters", {}))
    if twice := next((name for name in numbers if name in parameters), None):
        raise UnitError(f"the unit '{text}' has {twice} twice, once in parameters: leave one of them out")
    parameters |= numbers
    request = read_request(own, parameters=parameters)
    if fileless:
        find(fileless).settings(request.parameters)  # which checks them
        return as_model(request)
    if request.preprocessor != AUTO:
        preprocessor_of(request)  # which checks its numbers
    return request


def load_units(
    requests: Sequence[UnitRequest],
    size: tuple[int, int],
    dtype: torch.dtype,
    base_state: Mapping[str, Any] | None = None,
) -> list[Ready]:
    """Read the pictures, run the preprocessors, load each model file once; arguments as those of the two below."""
    return make_units(requests, load_models(requests, dtype, base_state), size)


def load_models(
    requests: Sequence[UnitRequest], dtype: torch.dtype, base_state: Mapping[str, Any] | None = None
) -> dict[Path, ControlModel]:
    """Return the model of each unit by its resolved path, each loaded once.

    base_state: the base U-Net's weights by bare ldm names, for "difference" files.
    """

    models: dict[Path, ControlModel] = {}
    for request in requests:
        path = Path(request.model)
        if path.resolve() not in models:
            models[path.resolve()] = load_model(request.model, dtype, base_state)
    return models


def make_units(
    requests: Sequence[UnitRequest], models: Mapping[Path, ControlModel], size: tuple[int, int]
) -> list[Ready]:
    """Read the pictures and run the preprocessors; size: (height, width) of the result."""
    from ..units.ready import ready

    return [
        ready(_posed(request), models[Path(request.model).resolve()], size, says=_says(request.model))
        for request in requests
    ]


def load_model(name: str, dtype: torch.dtype, base_state: Mapping[str, Any] | None) -> ControlModel:
    """Return the model of a file, or one that has none and acts on the base model alone."""
    from ..models.fileless.making import make_fileless
    from ..models.registry import load_control_model

    if name in FILELESS and base_state is not None:
        return make_fileless(name, base_state)
    return load_control_model(Path(name), dtype=dtype, base_state=base_state)


def _says(name: str) -> str:
    """Return what the file of a model says about its hints; some models have none."""
    from ..units.convention import said_by

    return "" if name in FILELESS else said_by(Path(name))


def pose_frames(request: UnitRequest) -> list[Image]:
    """Return the hint of each frame of a pose file, drawn by the unit's preprocessor; nothing for other pictures."""
    image = request.image
    if not isinstance(image, Path) or image.suffix.lower() != POSES:
        return []
    from .media.pose_files import draw_file

    preprocessor = preprocessor_of(request)
    resolution = None if request.resolution is None else int(request.resolution)
    return list(draw_file(image, preprocessor, resolution, preprocessor.settings(request.parameters)))


def with_image(request: UnitRequest, picture: Path | Image) -> UnitRequest:
    """Return the request with one picture of many; of a pose file it is drawn already."""
    if isinstance(request.image, Path) and request.image.suffix.lower() == POSES:
        return replace(request, image=picture, preprocessor=NONE, parameters={})
    return replace(request, image=picture)


def _posed(request: UnitRequest) -> UnitRequest:
    """Return the request with the poses of a file drawn; a file of many frames is a series, and does not come here."""
    frames = pose_frames(request)
    return with_image(request, frames[0]) if frames else request


def parse_parameters(pairs: Sequence[str]) -> dict[str, float]:
    """Return the numbers of `name=value` texts."""
    numbers: dict[str, float] = {}
    for pair in pairs:
        name, equals, value = (part.strip() for part in pair.partition("="))
        if not equals:
            raise UnitError(f"'{pair}' is no name=value")
        if name in numbers:
            raise UnitError(f"{name} is said twice, {numbers[name]:g} and {value}: leave one of them out")
        numbers[name] = read_number(name, value)
    return numbers


def _advice(name: str, known: Sequence[str]) -> str:
    """Return what to do about an unknown name, which may be the part of a value behind a comma."""
    if near := difflib.get_close_matches(name, known, n=2):
        return f"did you mean {' or '.join(near)}?"
    return 'see `controlstack units` for all names, and put a value with a comma in quotation marks: image="a,b=c.png"'


def _with_types(pairs: Mapping[str, str]) -> dict[str, object]:
    """Return the options of a unit whose kinds of hints are said by their short name."""
    options: dict[str, object] = {**read_options("options", pairs.get("options", ""))}
    if OPTION in options:
        raise UnitError(f"the kinds of hints are said twice, as {SHORT} and as {OPTION}: leave one of them out")
    return {**options, OPTION: pairs[SHORT]}


def _is_fileless(pairs: Mapping[str, str]) -> bool:
    """Return whether a unit's preprocessor stands for a control model without a file, and no other model is named."""
    return pairs.get("preprocessor") in FILELESS and "model" not in pairs


def read_pairs(text: str) -> dict[str, str]:
    """Return name -> value of a unit's text; UnitError for names that no unit with its preprocessor has."""
    names: dict[str, str] = {}
    at = 0
    while found := PAIR.match(text, at):
        name = found["name"]
        if name in names:
            raise UnitError(f"the unit '{text}' has {name} twice")
        names[name] = found["plain"] if found["quoted"] is None else found["quoted"]
        at = found.end()
    if at < len(text):
        raise UnitError(f"'{text[at:]}' in the unit '{text}' is no name=value")
    said = names.get("preprocessor", NONE)
    if said != AUTO and not _is_fileless(names):
        find(said).check_gives_hint()  # a reference, which is a model, is told before a model is missed
    known = [*NAMES, SHORT, *(() if said == AUTO else (each.name for each in find(said).parameters))]
    for name in names:
        if name not in known and said != AUTO:
            raise UnitError(f"a unit with {find(said).id} has no '{name}': {_advice(name, known)}")
    return names
