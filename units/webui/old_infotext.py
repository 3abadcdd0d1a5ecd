"""Units in the texts that sd-webui-controlnet wrote into pictures in 2023, before the grammar of `infotext`.

First each field had an entry of its own (`ControlNet-0 Module: canny`), and until August 2023 a unit was

    ControlNet 0: "preprocessor: canny, model: control_v11p_sd15_canny [d14c016b], weight: 1, starting/ending: (0, 1),
    resize mode: Crop and Resize, pixel perfect: False, control mode: Balanced, preprocessor params: (512, 100, 200)"
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from ...core.unit import ControlMode

_PART = re.compile(r"\s*([^:,()]+?)\s*:\s*(\([^)]*\)|[^,]*)(?:,|$)")
_NAMES = {  # as those texts have them -> ours
    "preprocessor": "module",
    "model": "model",
    "weight": "weight",
    "resize mode": "resize_mode",
    "pixel perfect": "pixel_perfect",
    "control mode": "control_mode",
}
_TUPLES = {  # several fields in one pair of brackets
    "starting/ending": ("guidance_start", "guidance_end"),
    "preprocessor params": ("processor_res", "threshold_a", "threshold_b"),
}
_FLAT = re.compile(r"ControlNet(?:-(\d{1,3}))? (Enabled|Module|Model|Weight|Guidance (?:Strength|Start|End))")
_FLAT_NAMES = {"guidance_strength": "guidance_end"}


def read_unit(text: str) -> dict[str, object]:
    """Return the fields that a unit's text of 2023 names, as `parse_unit` takes them; empty if it is no such text."""
    said = {name.lower().replace("_", " "): value.strip() for name, value in _PART.findall(text)}
    if "preprocessor" not in said:
        return {}
    found: dict[str, object] = {"enabled": True}
    if said.get("guess mode") == "True":  # what became this mode
        found["control_mode"] = ControlMode.CONTROL
    for name, value in said.items():
        if name in _NAMES:
            found[_NAMES[name]] = value
        for each, number in zip(_TUPLES.get(name, ()), value.strip("()").split(","), strict=False):
            if number.strip() not in ("", "None"):
                found[each] = number.strip()
    return found


def read_flat(parameters: Mapping[str, object]) -> dict[int, dict[str, object]]:
    """Return the units whose fields are entries of their own among a picture's parameters, by number."""
    units: dict[int, dict[str, object]] = {}
    for key, value in parameters.items():
        match = _FLAT.fullmatch(key)
        if match and isinstance(value, str):
            name = match[2].lower().replace(" ", "_")
            units.setdefault(int(match[1] or 0), {})[_FLAT_NAMES.get(name, name)] = value
    return {number: unit for number, unit in units.items() if unit.get("enabled") == "True" and "module" in unit}
