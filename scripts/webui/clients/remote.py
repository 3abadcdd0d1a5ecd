"""Settings of units that other extensions and the XYZ grid leave on a request as attributes, `p.control_net_weight`.

A value holds for the first unit, a list has one for each; `control_net_enabled = False` switches all off. Extensions
may do so only where the setting `control_net_allow_script_control` allows it, as in sd-webui-controlnet; the grid marks
its requests itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ....units.webui.fields import UnitArgs
from ..request.arguments import read_unit
from ..request.services import services

ALLOWED = "control_net_allow_script_control"
GRID = "controlstack_grid"  # attribute of a request: the grid's own settings, {field: value or list}
ATTRIBUTES = {
    "control_net_enabled": "enabled",
    "control_net_module": "module",
    "control_net_model": "model",
    "control_net_weight": "weight",
    "control_net_image": "image",
    "control_net_resize_mode": "resize_mode",
    "control_net_lowvram": "low_vram",
    "control_net_pres": "processor_res",
    "control_net_pthr_a": "threshold_a",
    "control_net_pthr_b": "threshold_b",
    "control_net_guidance_start": "guidance_start",
    "control_net_guidance_end": "guidance_end",
    "control_net_guidance_strength": "guidance_end",
    "control_net_control_mode": "control_mode",
    "control_net_pixel_perfect": "pixel_perfect",
}


def with_attributes(p: Any, units: Sequence[UnitArgs]) -> list[UnitArgs]:
    """Return the enabled units with what the request's attributes say about them."""
    named: dict[str, Any] = dict(getattr(p, GRID, None) or {})
    if services().program.option(ALLOWED, False):
        present = {field: getattr(p, name, None) for name, field in ATTRIBUTES.items()}
        if present["enabled"] is False:  # ADetailer's way to say so; it cannot switch off units of the page itself
            return []
        named |= {field: value for field, value in present.items() if value is not None}
    if not named:
        return list(units)
    count = max(len(units), 1)
    changed = [_with(units[i] if i < len(units) else None, _values(named, i), i) for i in range(count)]
    return [unit for unit in changed if unit.enabled]


def _values(named: dict[str, Any], index: int) -> dict[str, Any]:
    picked = {field: _pick(value, index) for field, value in named.items()}
    return {field: value for field, value in picked.items() if value is not None}


def _pick(value: Any, index: int) -> Any:
    if isinstance(value, (list, tuple)):
        return value[index] if index < len(value) else None
    return value if index == 0 else None


def _with(unit: UnitArgs | None, values: dict[str, Any], index: int) -> UnitArgs:
    basis = services().program.basis
    if unit is None:
        return read_unit(index, values, basis)
    number = index if unit.number is None else unit.number
    read = read_unit(number, {"enabled": True, **values}, basis)
    changes = {name: getattr(read, name) for name in values if name != "enabled" and hasattr(read, name)}
    switched = read_unit(number, {"enabled": values.get("enabled", unit.enabled)}, basis).enabled
    return replace(unit, enabled=switched, **changes)
