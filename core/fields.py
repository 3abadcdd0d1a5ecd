"""What a client, a picture's text or the page says about a unit, in sd-webui-controlnet's field names -> `UnitArgs`.

Years of clients send these dictionaries, so names, aliases and defaults are theirs: enums
come as text or number, unknown keys are ignored, and `enabled` is off unless it is said. Ours are `range_basis`,
`curve` and `parameters`. Unlike there, what makes no sense is a `UnitError` before anything runs.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import Enum
from typing import Any, TypeVar, cast

from .errors import UnitError
from .resize import ResizeMode
from .schedule import Easing, Keyframe, RangeBasis, Schedule
from .unit import ControlMode

NO_MODEL, NO_MODULE = "None", "none"
LARGEST_WEIGHT = 2.0  # the slider's end, and what sd-webui-controlnet accepts
FROM_PREPROCESSOR = -1  # "the preprocessor's own default", in processor_res and the thresholds


class HiresOption(Enum):
    """In which pass of a hires fix a unit acts."""

    BOTH = "Both"
    LOW = "Low res only"
    HIGH = "High res only"


class InputMode(Enum):
    """Where a unit's pictures come from."""

    SIMPLE = "simple"
    BATCH = "batch"
    MERGE = "merge"  # several pictures in one unit; each acts with its share of the weight


class UnionType(Enum):
    """What a union model's hint shows, in the order of its task numbers."""

    OPENPOSE = "OpenPose"
    DEPTH = "Depth"
    SOFT_EDGE = "Soft Edge"
    HARD_EDGE = "Hard Edge"
    NORMAL_MAP = "Normal Map"
    SEGMENTATION = "Segmentation"
    TILE = "Tile"
    INPAINT = "Inpaint"
    UNKNOWN = "Unknown"


# Text as the page shows it, in the order of the numbers that clients send.
RESIZE_LABELS = {
    "Just Resize": ResizeMode.JUST_RESIZE,
    "Crop and Resize": ResizeMode.CROP,
    "Resize and Fill": ResizeMode.FILL,
}
MODE_LABELS = {
    "Balanced": ControlMode.BALANCED,
    "My prompt is more important": ControlMode.PROMPT,
    "ControlNet is more important": ControlMode.CONTROL,
}
HIRES_LABELS = {each.value: each for each in HiresOption}
BASIS_LABELS = {each.value: each for each in (RangeBasis.WEBUI, RangeBasis.STEPS, RangeBasis.NOISE)}
UNION_LABELS = {each.value: each for each in UnionType}
INPUT_LABELS = {each.value: each for each in InputMode}

_OLDER = {  # what other versions say for the same
    "Inner Fit (Scale to Fit)": "Crop and Resize",
    "Scale to Fit (Inner Fit)": "Crop and Resize",
    "Outer Fit (Shrink to Fit)": "Resize and Fill",
    "Envelope (Outer Fit)": "Resize and Fill",
    "Prefer Prompt": "My prompt is more important",
    "Prefer ControlNet": "ControlNet is more important",
    # What reForge writes into pictures: the names of its enums, not their texts.
    "ResizeMode.RESIZE": "Just Resize",
    "ResizeMode.INNER_FIT": "Crop and Resize",
    "ResizeMode.OUTER_FIT": "Resize and Fill",
    "ControlMode.BALANCED": "Balanced",
    "ControlMode.PROMPT": "My prompt is more important",
    "ControlMode.CONTROL": "ControlNet is more important",
    "HiResFixOption.BOTH": "Both",
    "HiResFixOption.LOW_RES_ONLY": "Low res only",
    "HiResFixOption.HIGH_RES_ONLY": "High res only",
}
ALIASES = {  # other names of a field
    "guidance": "guidance_end",
    "lowvram": "low_vram",
    "input_image": "image",
    "mask_image": "mask",
}

Choice = TypeVar("Choice", bound=Enum)


@dataclass(frozen=True, kw_only=True)
class UnitArgs:
    """One unit as it was asked for: checked, but nothing is loaded or decoded."""

    enabled: bool = False
    module: str = NO_MODULE
    model: str = NO_MODEL
    weight: float = 1.0
    image: object = None
    mask: object = None
    resize_mode: ResizeMode = ResizeMode.CROP
    low_vram: bool = False
    processor_res: int = FROM_PREPROCESSOR
    threshold_a: float = FROM_PREPROCESSOR
    threshold_b: float = FROM_PREPROCESSOR
    guidance_start: float = 0.0
    guidance_end: float = 1.0
    pixel_perfect: bool = False
    control_mode: ControlMode = ControlMode.BALANCED
    inpaint_crop_input_image: bool = True
    hr_option: HiresOption = HiresOption.BOTH
    save_detected_map: bool = True
    advanced_weighting: tuple[float, ...] | None = None
    effective_region_mask: object = None
    union_control_type: UnionType = UnionType.UNKNOWN
    input_mode: InputMode = InputMode.SIMPLE
    range_basis: RangeBasis = RangeBasis.WEBUI
    curve: tuple[Keyframe, ...] = ()
    parameters: Mapping[str, float] = field(default_factory=dict[str, float])

    @property
    def schedule(self) -> Schedule:
        """When it acts and how strongly."""
        return Schedule(start=self.guidance_start, end=self.guidance_end, basis=self.range_basis, keyframes=self.curve)


def parse_unit(given: object, basis: RangeBasis = RangeBasis.WEBUI) -> UnitArgs:
    """A dictionary, an object with these attributes, or None -> `UnitArgs`; a unit that is off is not looked at.

    basis: the host's own meaning of a range, where the unit names none.
    """
    if isinstance(given, UnitArgs):
        return given
    values = _values(given)
    if not _boolean("enabled", values.get("enabled")):
        return UnitArgs()
    if values.get("range_basis") is None:
        values["range_basis"] = basis
    known: dict[str, Any] = {name: value for name, value in values.items() if name in _READERS and value is not None}
    read: dict[str, Any] = {name: _READERS[name](name, value) for name, value in known.items()}
    unit = UnitArgs(**read)
    _check(unit)
    return unit


def parse_curve(text: str) -> tuple[Keyframe, ...]:
    """`0: 1, 0.5: 0.3 ease-in, 1: 0` -> keyframes: place, weight, and how it moves on to the next one."""
    return tuple(_keyframe(part, text) for part in re.split(r"[,;\n]+", text) if part.strip())


def curve_text(curve: Sequence[Keyframe]) -> str:
    """What `parse_curve` reads."""
    return "; ".join(
        f"{frame.at:g}: {frame.weight:g}" + ("" if frame.easing is Easing.LINEAR else f" {frame.easing.value}")
        for frame in curve
    )


def label_of(labels: Mapping[str, Choice], member: Choice) -> str:
    """The text of an enum's member on the page, in the API and in infotexts."""
    return next(text for text, each in labels.items() if each is member)


def _values(given: object) -> dict[str, Any]:
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        if not hasattr(given, "enabled"):
            raise UnitError(f"a unit is {type(given).__name__}, expected an object of named fields")
        given = {each.name: getattr(given, each.name, None) for each in fields(UnitArgs)}
    values = dict(cast("Mapping[str, Any]", given))
    for alias, name in ALIASES.items():
        if values.get(alias) is not None:
            if values.get(name) is not None and not _agree(values[name], values[alias]):
                raise UnitError(f"a unit has both {name} and {alias}, which mean the same, and differ: leave one out")
            values[name] = values[alias]
    return values


def _agree(first: object, second: object) -> bool:
    """Whether two names of a field say the same; clients of many years send both."""
    return first is second or (isinstance(first, (str, int, float)) and first == second)


def _check(unit: UnitArgs) -> None:
    if not 0 <= unit.weight <= LARGEST_WEIGHT:
        raise UnitError(f"the weight is {unit.weight:g}, expected 0 to {LARGEST_WEIGHT:g}")
    _ = unit.schedule  # making it checks the range and the curve


def _keyframe(part: str, text: str) -> Keyframe:
    match = re.fullmatch(r"\s*([\d.]+)\s*:\s*(-?[\d.]+)\s*([a-z-]+)?\s*", part)
    easings = {each.value: each for each in Easing}
    if match is None or (match[3] or "linear") not in easings:
        raise UnitError(f"the curve '{text}' has '{part.strip()}', expected place: weight, such as 0.5: 0.8 ease-in")
    at, weight = _number("curve", match[1]), _number("curve", match[2])
    return Keyframe(at=at, weight=weight, easing=easings[match[3] or "linear"])


def _number(name: str, value: object) -> float:
    try:
        number = float(cast(Any, value))
    except (TypeError, ValueError):
        raise UnitError(f"{name} is {value!r}, expected a number") from None
    if not math.isfinite(number):
        raise UnitError(f"{name} is {number}, expected a finite number")
    return number


def _whole(name: str, value: object) -> int:
    return round(_number(name, value))


def _boolean(_name: str, value: object) -> bool:
    return value.strip().lower() in ("true", "1", "yes", "on") if isinstance(value, str) else bool(value)


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise UnitError(f"{name} is {value!r}, expected text")
    return value.strip()


def _thing(_name: str, value: object) -> object:
    """A picture; an empty text is what the webuiapi client sends for none."""
    return None if isinstance(value, str) and not value else value


def _numbers(name: str, value: object) -> tuple[float, ...] | None:
    if isinstance(value, str):
        value = [part for part in re.split(r"[\s,;]+", value) if part]
    if not isinstance(value, Sequence):
        raise UnitError(f"{name} is {value!r}, expected a list of numbers")
    return tuple(_number(name, each) for each in cast("Sequence[object]", value)) or None


def _curve(name: str, value: object) -> tuple[Keyframe, ...]:
    if isinstance(value, str):
        return parse_curve(value)
    pairs = cast("Sequence[Any]", value)
    return tuple(each if isinstance(each, Keyframe) else _pair(name, each) for each in pairs)


def _pair(name: str, value: Any) -> Keyframe:
    if isinstance(value, Mapping):
        pair = cast("Mapping[str, object]", value)
        return Keyframe(at=_number(name, pair.get("at")), weight=_number(name, pair.get("weight")))
    if not isinstance(value, Sequence) or len(cast("Sequence[object]", value)) != 2:
        raise UnitError(f"{name} has {value!r}, expected pairs of place and weight")
    at, weight = cast("Sequence[object]", value)
    return Keyframe(at=_number(name, at), weight=_number(name, weight))


def _parameters(name: str, value: object) -> Mapping[str, float]:
    if not isinstance(value, Mapping):
        raise UnitError(f"{name} is {value!r}, expected names with numbers")
    return {str(key): _number(str(key), each) for key, each in cast("Mapping[Any, object]", value).items()}


def _choice(labels: Mapping[str, Choice]) -> Any:
    """A reader of an enum: itself, its text in any case, an enum of somebody else with such a text, or its number."""
    members = list(labels.values())
    by_text = {text.lower(): member for text, member in labels.items()}
    by_text |= {str(member.value).lower(): member for member in members}
    by_text |= {old.lower(): labels[new] for old, new in _OLDER.items() if new in labels}

    def read(name: str, value: object) -> Choice:
        if isinstance(value, Enum):
            if value in members:
                return cast(Any, value)
            value = value.value
        if isinstance(value, (int, float)) and not isinstance(value, bool) and value in range(len(members)):
            return members[int(value)]
        if isinstance(value, str) and value.strip().lower() in by_text:
            return by_text[value.strip().lower()]
        raise UnitError(f"{name} is {value!r}, expected one of {', '.join(labels)}, or 0 to {len(members) - 1}")

    return read


_READERS = {
    "enabled": _boolean,
    "module": _text,
    "model": _text,
    "weight": _number,
    "image": _thing,
    "mask": _thing,
    "resize_mode": _choice(RESIZE_LABELS),
    "low_vram": _boolean,
    "processor_res": _whole,
    "threshold_a": _number,
    "threshold_b": _number,
    "guidance_start": _number,
    "guidance_end": _number,
    "pixel_perfect": _boolean,
    "control_mode": _choice(MODE_LABELS),
    "inpaint_crop_input_image": _boolean,
    "hr_option": _choice(HIRES_LABELS),
    "save_detected_map": _boolean,
    "advanced_weighting": _numbers,
    "effective_region_mask": _thing,
    "union_control_type": _choice(UNION_LABELS),
    "input_mode": _choice(INPUT_LABELS),
    "range_basis": _choice(BASIS_LABELS),
    "curve": _curve,
    "parameters": _parameters,
}
