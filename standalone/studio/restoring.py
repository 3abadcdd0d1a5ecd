"""All settings back from a picture: our record, else the text that WebUIs write.

Whoever drops a picture decides what its texts say. So paths in them are never opened: pictures come back where the
record holds their pixels, and models where this server offers a file of that name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ...core.errors import ControlError, FileError, HintError, HostError
from ...core.files import parse_json
from ...core.wording import shortest
from ...pipelines.request import Request
from ...pipelines.schedulers import scheduler_name
from ...preprocessors.texts import read_texts
from ...units.record import from_record, pixels_of
from ...units.request import FIELDS, UnitRequest
from ...units.webui import infotext
from ...units.webui.fields import parse_unit, request_of
from ..asked import PICTURES, UNIT_PICTURES
from ..record import FORMAT, INFOTEXT, KEY
from .library import Library

HASH = re.compile(r"\s*\[[0-9a-f]+\]$")  # behind a model's name in texts of WebUIs
LORA = re.compile(r"<lora:([^:<>]+)(?::([-+]?[0-9.]+))?[^<>]*>")  # name and weight in a prompt of WebUIs
NUMBERS: Mapping[str, tuple[str, type]] = MappingProxyType({  # in texts of WebUIs -> field and type
    "Steps": ("steps", int), "CFG scale": ("guidance", float), "Seed": ("seed", int), "Clip skip": ("clip_skip", int),
    "Hires upscale": ("hires", float), "Hires steps": ("hires_steps", int),
})  # fmt: skip


@dataclass
class Restored:
    """What a picture says, as a page can show it, and what of it could not be had."""

    request: dict[str, Any]
    units: list[dict[str, Any]]
    remarks: list[str] = field(default_factory=list)


def restore(path: Path, library: Library) -> Restored:
    """Return the settings of a picture that was uploaded. FileError for one that holds none that can be read."""
    try:
        texts = read_texts(path, "the file")
    except HintError as error:
        raise FileError(str(error)) from error
    try:
        if KEY in texts:
            return _from_record(parse_json(texts[KEY], "the record in the picture"), library)
        if INFOTEXT in texts:
            return _from_infotext(texts[INFOTEXT], library)
    except FileError:
        raise
    except (ControlError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise FileError(f"the settings in the picture are damaged ({error}): give one as it was written") from error
    raise FileError("the picture holds no settings: give a PNG of ControlStack or of a WebUI, as it was written")


def _from_record(record: Any, library: Library) -> Restored:
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise FileError(f"the picture has a record of another version than {FORMAT}: update ControlStack")
    found = Restored(_request_fields(record), [])
    found.request["base"] = _base_name(record["base"], library)
    said = record["request"].get("loras", [])
    found.request["loras"] = _loras([(each["path"], float(each["weight"])) for each in said], library, found.remarks)
    for number, each in enumerate(record["units"], start=1):
        if "said" not in each:
            found.remarks.append(f"unit {number} was made by a program and cannot be shown")
            continue
        said = dict(each["said"])
        for name in UNIT_PICTURES:
            if isinstance(said.get(name), (str, list)):
                del said[name]
                found.remarks.append(f"unit {number}: its {name.replace('_', ' ')} was a file; put it in again")
        found.units.append(_unit(from_record(said), number, library, found.remarks))
    return found


def _request_fields(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a request's fields for one picture; pictures as pixels."""
    known = {each.name for each in fields(Request)}
    said = {name: value for name, value in record["request"].items() if name in known and name not in PICTURES}
    for name in PICTURES:
        value = record["request"].get(name)
        if isinstance(value, dict):
            said[name] = pixels_of(name, value)
    if "mask" in said and "image" not in said:
        del said["mask"]
    prompt = said.get("prompt", "")
    index = int(record["picture"])
    return {
        **said,
        "prompt": prompt if isinstance(prompt, str) else str(prompt[index]),
        "seed": int(record["seed"]),
        "batch": 1,
    }


def _base_name(said: Mapping[str, Any], library: Library) -> str:
    path = Path(str(said.get("path", "")))
    found = [name for name, each in library.bases.items() if path.name in (each.name, name)]
    return found[0] if found else next(iter(library.bases))


def _loras(said: Sequence[tuple[str, float]], library: Library, remarks: list[str]) -> list[str]:
    """Return LoRAs that are offered here, as a page names them."""
    names = [(library.lora_of(path), path, weight) for path, weight in said]
    remarks += [f"there is no LoRA '{Path(path).name}' here" for name, path, _ in names if not name]
    return [f"{name}:{shortest(weight)}" for name, _, weight in names if name]


def _from_infotext(text: str, library: Library) -> Restored:
    said = infotext.parse_generation(text)
    request: dict[str, Any] = {"prompt": LORA.sub("", said.prompt).strip(), "negative": said.negative, "batch": 1}
    remarks: list[str] = []
    tags = [(each[1], float(each[2] or 1)) for each in LORA.finditer(said.prompt)]
    request["loras"] = _loras(tags, library, remarks)
    second = "Hires upscale" in said.settings
    names = {**NUMBERS, "Denoising strength": ("hires_strength" if second else "strength", float)}
    for name, (own, kind) in names.items():
        if name in said.settings:
            request[own] = kind(said.settings[name])
    if size := re.fullmatch(r"(\d+)x(\d+)", said.settings.get("Size", "")):
        request |= {"width": int(size[1]), "height": int(size[2])}
    if "Sampler" in said.settings:
        request |= _scheduler(said.settings, remarks)
    units = [
        _unit(request_of(parse_unit(each)), number + 1, library, remarks)
        for number, each in sorted(infotext.read(said.settings).items())
    ]
    return Restored(request, units, remarks)


def _scheduler(settings: Mapping[str, str], remarks: list[str]) -> dict[str, str]:
    wanted = settings["Sampler"]
    kind = settings.get("Schedule type", "")
    for name in (f"{wanted} {kind}", wanted):
        try:
            return {"scheduler": scheduler_name(name)}
        except HostError:
            continue
    remarks.append(f"there is no scheduler '{wanted}' here: the present one stays")
    return {}


def _unit(request: UnitRequest, number: int, library: Library, remarks: list[str]) -> dict[str, Any]:
    """Return a unit as a card begins with it."""
    name = library.name_of(HASH.sub("", request.model)) if request.model else ""
    if request.model and not name:
        remarks.append(f"unit {number}: there is no model '{Path(request.model).name}' here; choose one")
    if request.image is None:
        remarks.append(f"unit {number}: the picture is not in the file; put it in again")
    shown = replace(request, model=name)
    return {each: getattr(shown, each) for each in FIELDS}
