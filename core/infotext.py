"""Units in the text that a WebUI writes into pictures, in sd-webui-controlnet's grammar, both ways.

    ControlNet 0: "Module: canny, Model: control_v11p_sd15_canny [d14c016b], Weight: 1.0, ..."

A comma or colon in a value would end it, so both are written as in addresses (%2C, %3A); there such a unit lost its
whole text. What that grammar lacks stands at the end, where it differs from the default: the other program skips it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from urllib.parse import unquote

from .fields import (
    BASIS_LABELS,
    HIRES_LABELS,
    MODE_LABELS,
    RESIZE_LABELS,
    UNION_LABELS,
    UnitArgs,
    curve_text,
    label_of,
)
from .schedule import RangeBasis

KEY = "ControlNet {}"
_ALWAYS = (
    "module", "model", "weight", "resize_mode", "processor_res", "threshold_a", "threshold_b", "guidance_start",
    "guidance_end", "pixel_perfect", "control_mode",
)  # fmt: skip
_IF_SET = ("hr_option", "range_basis", "curve", "union_control_type", "advanced_weighting", "parameters")
_LABELS = {
    "resize_mode": RESIZE_LABELS,
    "control_mode": MODE_LABELS,
    "hr_option": HIRES_LABELS,
    "range_basis": BASIS_LABELS,
    "union_control_type": UNION_LABELS,
}
_DEFAULTS = {each.name: getattr(UnitArgs(), each.name) for each in fields(UnitArgs)}


# The beginning of what a program says as its version -> what a range means in its texts that do not say so.
_BASES = (
    # Forge ("f2.0.1v1.10.1"), reForge ("f1.0.0v2-v1.10.1RC"), Forge Classic and Forge Neo
    (re.compile(r"f\d|classic|neo"), RangeBasis.NOISE),
    (re.compile(r"v?\d+\.\d"), RangeBasis.WEBUI),  # AUTOMATIC1111's WebUI ("v1.10.1")
)
_SETTING = re.compile(r'\s*([^:,"]+):\s*("(?:\\.|[^\\"])*"|[^,]*)(?:,|$)')  # name: value, or name: "value, quoted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """What a WebUI says about a picture that it made."""

    prompt: str = ""
    negative: str = ""
    settings: Mapping[str, str]


def parse_generation(text: str) -> Generation:
    """A picture's whole text: the prompt, the negative prompt, and a last line of settings; or that line alone."""
    *above, last = text.strip().split("\n")
    prompt, _, negative = "\n".join(above).partition("Negative prompt:")
    return Generation(
        prompt=prompt.strip(),
        negative=negative.strip(),
        settings={name.strip(): _unquoted(value) for name, value in _SETTING.findall(last)},
    )


def write(units: Sequence[UnitArgs], basis: RangeBasis = RangeBasis.WEBUI) -> dict[str, str]:
    """Infotext entries of the enabled units, in order: {"ControlNet 0": ...}. basis: the host's own."""
    return {KEY.format(index): write_unit(unit, basis) for index, unit in enumerate(units)}


def write_unit(unit: UnitArgs, basis: RangeBasis = RangeBasis.WEBUI) -> str:
    """One unit as text. A range's basis is left out only where no program could take it for another one."""
    said = {name for name in _IF_SET if getattr(unit, name) != _DEFAULTS[name]}
    if basis is not _DEFAULTS["range_basis"]:
        said.add("range_basis")
    names = (*_ALWAYS, *(name for name in _IF_SET if name in said))
    return ", ".join(f"{_title(name)}: {_quote(_show(unit, name))}" for name in names)


def read_unit(text: str) -> dict[str, object]:
    """The fields that a unit's text names, as `parse_unit` takes them; also of texts of older versions and of Forge."""
    found: dict[str, object] = {}
    for part in text.split(","):
        name, colon, value = part.strip().partition(": ")
        key = name.strip().lower().replace(" ", "_")
        if colon and key in (*_ALWAYS, *_IF_SET):
            found[key] = _read(key, unquote(value.strip()))
    return {"enabled": True, **found} if found else {}


def read(parameters: Mapping[str, object]) -> dict[int, dict[str, object]]:
    """The units in a picture's parsed parameters, by number.

    The program that made the picture decides what a range means where a unit does not say so, if it signed its text.
    """
    basis = basis_of(str(parameters.get("Version", "")))
    meant = {} if basis is None else {"range_basis": basis}
    units: dict[int, dict[str, object]] = {}
    for key, value in parameters.items():
        match = re.fullmatch(r"ControlNet (\d+)", key)
        if match and isinstance(value, str) and (unit := read_unit(value)):
            units[int(match[1])] = {**meant, **unit}
    return units


def basis_of(version: str) -> RangeBasis | None:
    """What a range means in the program that signs its texts so; None for one that is not known."""
    return next((basis for pattern, basis in _BASES if pattern.match(version)), None)


def _title(name: str) -> str:
    return " ".join(part.capitalize() for part in name.split("_"))


def _show(unit: UnitArgs, name: str) -> str:
    value = getattr(unit, name)
    if name in _LABELS:
        return label_of(_LABELS[name], value)
    if name == "curve":
        return curve_text(value)
    if name == "advanced_weighting":
        return " ".join(map(str, value))
    if name == "parameters":
        return "; ".join(f"{key}={number:g}" for key, number in value.items())
    return str(value)


def _read(name: str, text: str) -> object:
    if name == "parameters":
        pairs = (part.partition("=") for part in text.split(";"))
        return {key.strip(): value.strip() for key, _, value in pairs}
    if text in ("True", "False"):
        return text == "True"
    number = re.fullmatch(r"-?\d+(\.\d+)?([eE]-?\d+)?", text)
    if name in ("module", "model") or not number:
        return text
    return float(text) if "." in text or "e" in text.lower() else int(text)


def _unquoted(value: str) -> str:
    return json.loads(value) if value.startswith('"') else value.strip()


def _quote(text: str) -> str:
    return text.replace("%", "%25").replace(",", "%2C").replace(":", "%3A")
