"""What a request says about units: first slots for whole units, then the page's fields, unit by unit.

Callers of the API send one object per unit, and the WebUI puts the n-th one into the n-th argument, as many as the
script has. So the script has slots, more of them than tabs, and nothing else, since other extensions take each of its
arguments for a unit. The page's widgets are the arguments of another script (`page_script`), one each, so that the
WebUI can keep their defaults in ui-config.json and fill them from a picture's text; they are put behind the slots
before anything is read. If a slot is filled, the fields are not looked at.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from ....core.errors import UnitError
from ....core.schedule import RangeBasis
from ....preprocessors.images import read_image
from ....units.text import shown
from ....units.webui.fields import (
    ALIASES,
    FROM_PREPROCESSOR,
    NO_MODEL,
    NO_MODULE,
    InputMode,
    UnitArgs,
    is_auto,
    parse_unit,
)
from ....units.webui.names import thresholds
from ..host.foreign import FRAMES, ClientUnit, ControlNetUnit, EmptySlot, as_given, is_empty
from ..page.gradio_shim import with_drawing
from .preprocessing import lookup
from .saying import about_unit

MOST_UNITS = 16  # in one request
ALIKE = 0.8  # of a name that nobody knows to one that is known; 1 is the same
GONE = ("guessmode", "invert_image", "rgbbgr_mode")  # fields of older clients, which are ignored on purpose
SLOTS = MOST_UNITS + 1  # arguments for them; the WebUI drops what is beyond, so the last one tells that there is more

# The sliders of a preprocessor's own numbers; as many as any of them has. Clients know the first two.
THRESHOLDS = ("threshold_a", "threshold_b", "threshold_c", "threshold_d", "threshold_e")

# Whole numbers in text boxes; an empty one leaves the number to the slider above it, or to the picture.
OPTIONAL = ("resolution", "preprocessor_seed")

# Each of the page's widgets for one unit, in the order of the arguments.
FIELDS = (
    "enabled", "low_vram", "pixel_perfect", "module", "model", "weight", "guidance_start", "guidance_end",
    "processor_res", *THRESHOLDS, "control_mode", "resize_mode", "range_basis", "hr_option", "curve",
    "union_control_type", "inpaint_crop_input_image", "block_weights", *OPTIONAL, "delta_strength", "options", "reuse",
    "loopback", "input_mode", "image", "drawn", "mask", "effective_region_mask", "region_drawn", "batch_folder",
    "output_folder", "multi_images",
)  # fmt: skip


def units_of(args: Sequence[Any], basis: RangeBasis = RangeBasis.WEBUI) -> list[UnitArgs]:
    """Return the enabled units among a script's arguments, checked. UnitError for what is no unit, or follows a video.

    basis: what a range means in this program, where a unit does not say so.
    """
    if not all(map(is_empty, args[MOST_UNITS:SLOTS])):
        raise UnitError(f"a request takes {MOST_UNITS} units, and this one has more: leave some out")
    units = [_read(number, raw, basis) for number, raw in enumerate(raw_units(args))]
    return [unit for unit in units if unit.enabled]


def read_unit(number: int, given: object, basis: RangeBasis) -> UnitArgs:
    """Return a unit, checked. number: among those of its request, which errors name."""
    with about_unit(number):
        return replace(parse_unit(given, basis), number=number)


def _read(number: int, given: object, basis: RangeBasis) -> UnitArgs:
    unit = read_unit(number, given, basis)
    if unit.enabled and getattr(given, FRAMES, False):
        raise UnitError(
            f"unit {number} is to see another picture of a video in each frame (AnimateDiff), and units have one "
            "for all frames: give it a picture, or switch it off"
        )
    return unit


def raw_units(args: Sequence[Any]) -> list[Any]:
    """Return all units among a request's arguments as they were given: callers' objects, or the page's fields."""
    given = [as_given(each) for each in args[:SLOTS] if not is_empty(each)]
    return given if given else from_page(args[SLOTS:])


def unsaid(args: Sequence[Any]) -> list[int]:
    """Return the numbers of clients' units that name a model, but not whether they are on: they are off."""
    return [
        index
        for index, unit in enumerate(map(as_given, args[:SLOTS]))
        if isinstance(unit, Mapping) and unit.get("enabled") is None and unit.get("model") not in (None, "", NO_MODEL)
    ]


def misspelt(args: Sequence[Any]) -> list[str]:
    """Return a sentence for each field of clients' units that is none, but is nearly called like one: it is ignored.

    Other unknown fields are ignored without a word, as there; clients of many years send what is gone since.
    """
    known = [each.name for each in fields(UnitArgs)]
    units = enumerate(map(as_given, args[:SLOTS]))
    named = [(index, name) for index, unit in units if isinstance(unit, Mapping) for name in map(str, unit)]
    told: list[str] = []
    for index, name in named:
        near = difflib.get_close_matches(name, known, n=1, cutoff=ALIKE)
        if near and name not in (*known, *ALIASES, *GONE):
            told.append(f"unit {index}: its field {shown(name)} is ignored: did you mean {near[0]}?")
    return told


def from_page(values: Sequence[Any]) -> list[dict[str, Any]]:
    """Return the page's fields as units."""
    if len(values) % len(FIELDS):
        raise UnitError(f"the page sent {len(values)} values, expected {len(FIELDS)} for each unit: reload the page")
    starts = range(0, len(values), len(FIELDS))
    return [from_page_unit(dict(zip(FIELDS, values[start : start + len(FIELDS)], strict=True))) for start in starts]


def fill(args: list[Any], start: int, units: Sequence[Any]) -> None:
    """Put whole units into the slots of a script whose arguments begin at `start`; none switches all off."""
    if len(units) > MOST_UNITS:
        raise UnitError(f"{len(units)} units were given, and a request takes {MOST_UNITS}: leave some out")
    slots = [ControlNetUnit() if is_empty(each) else each for each in units] or [ControlNetUnit()]
    args[start : start + SLOTS] = [*slots, *empty_slots(SLOTS - len(slots))]


def as_units(args: Sequence[Any]) -> list[Any]:
    """Return arguments with clients' objects as units, since other extensions ask all of them for `enabled`."""
    return [ClientUnit(each) if isinstance(each, Mapping) else each for each in args]


def empty_slots(count: int = SLOTS) -> list[EmptySlot]:
    """Return so many slots; each is an object of its own, since others may fill it in."""
    return [EmptySlot() for _ in range(count)]


def from_page_unit(values: dict[str, Any]) -> dict[str, Any]:
    """Return the widgets' values as a unit's fields."""
    image, mask = with_drawing(values.get("image"), values.pop("drawn", None)), values.pop("mask", None)
    if image is not None and mask is not None:  # an uploaded mask replaces the drawn one
        image = {"image": image["image"] if isinstance(image, Mapping) else image, "mask": mask}
    gallery = [_opened(each) for each in values.pop("multi_images", None) or ()]
    values |= {"image": image, "mask": None, "effective_region_mask": _region(values)}
    values["parameters"] = _parameters(values)
    if values.get("input_mode") == InputMode.MERGE.value:
        return values | {"image": [{"image": each} for each in gallery] or None}
    return values | {"input_mode": values.get("input_mode") or InputMode.SIMPLE.value}


def _region(values: dict[str, Any]) -> Any:
    """Return what was drawn as the region; the picture itself if nobody drew on it."""
    region = with_drawing(values.get("effective_region_mask"), values.pop("region_drawn", None))
    if not isinstance(region, Mapping):
        return region
    drawn = region.get("mask")
    return region["image"] if drawn is None or not drawn.any() else drawn


def _opened(value: Any) -> Any:
    """Return an uploaded file as a picture. Texts stay texts: only gradio's own objects name files."""
    path = getattr(value, "name", None)
    return value if path is None else read_image(path)


def _parameters(values: dict[str, Any]) -> dict[str, float]:
    """Return the numbers that clients' two fields do not stand for, by name."""
    module = values.get("module") or NO_MODULE
    known = lookup(module) if values.get("enabled") and not is_auto(module) else None
    numbers = [values.get(name) for name in THRESHOLDS]
    for name in THRESHOLDS[2:]:
        values.pop(name, None)
    if known is None:
        return {}
    named = {each.name for each in thresholds(known) if each is not None}
    pairs = zip(known.parameters, numbers, strict=False)
    return {
        each.name: number
        for each, number in pairs
        if each.name not in named and number is not None and number != FROM_PREPROCESSOR
    }
