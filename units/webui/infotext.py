"""Units in the text that a WebUI writes into pictures, in sd-webui-controlnet's grammar, both ways.

    ControlNet 0: "Module: canny, Model: control_v11p_sd15_canny [d14c016b], Weight: 1.0, ..."

A comma or colon in a value would end it, so both are written as in addresses (%2C, %3A); there such a unit lost its
whole text. What that grammar lacks stands at the end, where it differs from the default: the other program skips it.

Block weights replace the weight there and are multiplied by it here. So those of ours are written twice: multiplied,
for the other program, and as they were said, which is what counts when we read them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any
from urllib.parse import unquote

from ...core.schedule import RangeBasis
from .. import text as grammar
from ..choices import BASES, HIRES, MODES, RESIZES, UNION_TYPES
from . import old_infotext
from .fields import UnitArgs

KEY = "ControlNet {}"
_KEY = re.compile(r"ControlNet(?: (\d{1,3}))?")  # the first grammars left out the number of the only unit
_ALWAYS = (
    "module", "model", "weight", "resize_mode", "processor_res", "threshold_a", "threshold_b", "guidance_start",
    "guidance_end", "pixel_perfect", "control_mode",
)  # fmt: skip
_IF_SET = (
    "hr_option", "range_basis", "curve", "union_control_type", "advanced_weighting", "parameters", "block_weights",
    "resolution", "preprocessor_seed", "options", "delta_strength", "uncond_weight", "reuse",
)  # fmt: skip
_TEXTS = ("module", "model", "curve", "parameters", "block_weights", "options", "reuse")  # that may look like a number
_DIGITS = 20  # of a whole number, with its sign; no seed has more
_WRITERS: Mapping[str, Callable[[Any], str]] = {
    "resize_mode": RESIZES.label,
    "control_mode": MODES.label,
    "hr_option": HIRES.label,
    "range_basis": BASES.label,
    "union_control_type": UNION_TYPES.label,
    "curve": grammar.write_curve,
    "advanced_weighting": lambda numbers: " ".join(map(str, numbers)),
    "parameters": grammar.write_parameters,
    "block_weights": grammar.write_block_weights,
    "options": grammar.write_options,
    "reuse": grammar.write_reuse,
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
    """Read a picture's whole text: prompt, negative prompt, and a last line of settings; or that line alone."""
    *above, last = text.strip().split("\n")
    prompt, _, negative = "\n".join(above).partition("Negative prompt:")
    return Generation(
        prompt=prompt.strip(),
        negative=negative.strip(),
        settings={name.strip(): _unquoted(value) for name, value in _SETTING.findall(last)},
    )


def write(units: Sequence[UnitArgs], basis: RangeBasis = RangeBasis.WEBUI) -> dict[str, str]:
    """Return infotext entries of the enabled units, in order: {"ControlNet 0": ...}. basis: the host's own."""
    return {KEY.format(index): write_unit(unit, basis) for index, unit in enumerate(units)}


def write_unit(unit: UnitArgs, basis: RangeBasis = RangeBasis.WEBUI, blocks: int | None = None) -> str:
    """Return one unit as text. A range's basis is left out only where no program could take it for another one.

    blocks: how many the model has, where that is known; weights of blocks that are no numbers can be written for
    other programs only then.
    """
    said = {name: getattr(unit, name) for name in _IF_SET if getattr(unit, name) != _DEFAULTS[name]}
    if basis is not _DEFAULTS["range_basis"]:
        said["range_basis"] = unit.range_basis
    weights = unit.block_weights
    if weights is not None and (weights.numbers is not None or blocks is not None):
        said["advanced_weighting"] = tuple(unit.weight * each for each in weights.of(blocks or 0))
    shown = {
        **{name: getattr(unit, name) for name in _ALWAYS},
        **{name: said[name] for name in _IF_SET if name in said},
    }
    return ", ".join(f"{_title(name)}: {_quote(_WRITERS.get(name, str)(value))}" for name, value in shown.items())


def read_unit(text: str) -> dict[str, object]:
    """Return the fields that a unit's text names, as `parse_unit` takes them; of Forge and older versions too."""
    found: dict[str, object] = {}
    for part in text.split(","):
        name, colon, value = part.strip().partition(": ")
        key = name.strip().lower().replace(" ", "_")
        if colon and key in (*_ALWAYS, *_IF_SET):
            found[key] = _read(key, unquote(value.strip()))
    if "block_weights" in found:
        found.pop("advanced_weighting", None)  # the same, multiplied by the weight, for other programs
    return {"enabled": True, **found} if found else {}


def read(parameters: Mapping[str, object]) -> dict[int, dict[str, object]]:
    """Return the units in a picture's parsed parameters, by number; also of the grammars of 2023.

    The program that made the picture decides what a range means where a unit does not say so, if it signed its text.
    """
    basis = basis_of(str(parameters.get("Version", "")))
    meant = {} if basis is None else {"range_basis": basis}
    units = old_infotext.read_flat(parameters)
    for key, value in parameters.items():
        match = _KEY.fullmatch(key)
        if match and isinstance(value, str) and (unit := old_infotext.read_unit(value) or read_unit(value)):
            units[int(match[1] or 0)] = unit
    return {number: {**meant, **unit} for number, unit in units.items()}


def unread(parameters: Mapping[str, object]) -> list[str]:
    """Return the keys of units among a picture's parsed parameters that are in no grammar that is known."""
    known = read(parameters)
    keys = [(key, _KEY.fullmatch(key)) for key in parameters]
    return [key for key, match in keys if match and int(match[1] or 0) not in known]


def basis_of(version: str) -> RangeBasis | None:
    """Return what a range means in the program that signs its texts so; None for one that is not known."""
    return next((basis for pattern, basis in _BASES if pattern.match(version)), None)


def _title(name: str) -> str:
    return " ".join(part.capitalize() for part in name.split("_"))


def _read(name: str, text: str) -> object:
    if text in ("True", "False"):
        return text == "True"
    number = re.fullmatch(r"-?\d+(\.\d+)?([eE]-?\d+)?", text)
    if name in _TEXTS or not number:
        return text
    whole = re.fullmatch(r"-?\d+", text) and len(text) <= _DIGITS
    return int(text) if whole else float(text)


def _unquoted(value: str) -> str:
    if not value.startswith('"'):
        return value.strip()
    try:
        return str(json.loads(value))
    except ValueError:  # as the WebUI reads it
        return value


def _quote(text: str) -> str:
    return text.replace("%", "%25").replace(",", "%2C").replace(":", "%3A")
