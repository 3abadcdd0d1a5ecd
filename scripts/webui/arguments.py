"""The script's arguments: first slots for whole units, then the page's fields, unit by unit.

Callers of the API send one object per unit, and the WebUI puts the n-th one into the n-th argument, as many as the
script has. So the slots come first, and there are more of them than tabs. The page's own widgets follow, one argument
each, so that the WebUI can keep their defaults in ui-config.json and fill them from a picture's text. If a slot is
filled, the fields are not looked at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...core.errors import UnitError
from ...core.fields import UnitArgs, parse_unit

SLOTS = 16  # units in one request of the API; more are dropped by the WebUI before anybody of ours sees them
NOTHING: Mapping[str, Any] = {"enabled": False}

# Each of the page's widgets for one unit, in the order of the arguments.
FIELDS = (
    "enabled", "low_vram", "pixel_perfect", "module", "model", "weight", "guidance_start", "guidance_end",
    "processor_res", "threshold_a", "threshold_b", "control_mode", "resize_mode", "range_basis", "hr_option", "curve",
    "union_control_type", "inpaint_crop_input_image", "advanced_weighting", "image", "effective_region_mask",
    "multi_images",
)  # fmt: skip


def units_of(args: Sequence[Any]) -> list[UnitArgs]:
    """The enabled units among a script's arguments, checked. UnitError for what is no unit."""
    return [unit for unit in map(parse_unit, raw_units(args)) if unit.enabled]


def raw_units(args: Sequence[Any]) -> list[Any]:
    """All units among a script's arguments as they were given: objects of callers, or the page's as dictionaries."""
    given = [each for each in args[:SLOTS] if each is not None]
    return given if given else from_page(args[SLOTS:])


def from_page(values: Sequence[Any]) -> list[dict[str, Any]]:
    """The page's fields as units."""
    if len(values) % len(FIELDS):
        raise UnitError(f"the page sent {len(values)} values, expected {len(FIELDS)} for each unit: reload the page")
    starts = range(0, len(values), len(FIELDS))
    return [_unit(dict(zip(FIELDS, values[start : start + len(FIELDS)], strict=True))) for start in starts]


def fill(args: list[Any], start: int, units: Sequence[Any]) -> None:
    """Put whole units into the slots of a script whose arguments begin at `start`; none switches all off."""
    if len(units) > SLOTS:
        raise UnitError(f"{len(units)} units were given, and a request takes {SLOTS}: leave some out")
    slots = list(units) or [dict(NOTHING)]
    args[start : start + SLOTS] = [*slots, *[None] * (SLOTS - len(slots))]


def _unit(values: dict[str, Any]) -> dict[str, Any]:
    """A gallery with pictures makes a unit of several; a region's mask is what was drawn, or the picture itself."""
    gallery = values.pop("multi_images", None)
    region = values["effective_region_mask"]
    if isinstance(region, Mapping):
        drawn = region.get("mask")
        values["effective_region_mask"] = region.get("image") if drawn is None else drawn
    if gallery:
        values |= {"image": [{"image": each} for each in gallery], "input_mode": "merge"}
    return values
