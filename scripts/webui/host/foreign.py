"""Units as other extensions make, read and change them: the classes of sd-webui-controlnet's `external_code`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from enum import Enum
from types import SimpleNamespace
from typing import Any, ClassVar

from ....units.webui.fields import ALIASES, InputMode, UnitArgs
from ....units.webui.fields import UnionType as ControlNetUnionControlType

__all__ = ["ControlNetUnionControlType", "InputMode"]  # members and texts of ours are those of sd-webui-controlnet


class ControlMode(Enum):
    """Whose word counts more."""

    BALANCED = "Balanced"
    PROMPT = "My prompt is more important"
    CONTROL = "ControlNet is more important"


class ResizeMode(Enum):
    """How a picture is fitted to the result."""

    RESIZE = "Just Resize"
    INNER_FIT = "Crop and Resize"
    OUTER_FIT = "Resize and Fill"

    def int_value(self) -> int:
        """Return its number in the WebUI's own list."""
        return list(ResizeMode).index(self)


class HiResFixOption(Enum):
    """In which pass a unit acts."""

    BOTH = "Both"
    LOW_RES_ONLY = "Low res only"
    HIGH_RES_ONLY = "High res only"


class ControlModelType(Enum):
    """What sort of network a unit has. AnimateDiff treats two sorts, of which we have none, apart from all others."""

    ControlNet = "ControlNet"
    IPAdapter = "IPAdapter"
    Controlllite = "Controlllite"


_LEFT_TO_US = {  # ours have other members than the enums that other extensions know
    "resize_mode": ResizeMode.INNER_FIT,
    "control_mode": ControlMode.BALANCED,
    "hr_option": HiResFixOption.BOTH,
    "range_basis": None,  # what the program means by a range
}
FRAMES = "animatediff_batch"  # AnimateDiff sets this on a unit that is to see another picture in each frame
_VIDEO: dict[str, Any] = {  # what AnimateDiff asks each unit that is on for, of which ours know nothing
    "batch_images": "",
    "batch_mask_dir": None,
    "batch_input_gallery": None,
    FRAMES: False,
}
_DEFAULTS = _VIDEO | {
    each.name: _LEFT_TO_US.get(each.name, getattr(UnitArgs(), each.name)) for each in fields(UnitArgs)
}


class ControlNetUnit:
    """A unit as other extensions make and change it; what makes no sense is said when the request begins."""

    def __init__(self, /, **given: Any) -> None:
        vars(self).update(_DEFAULTS | {ALIASES.get(name, name): value for name, value in given.items()})

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ControlNetUnit:
        """Return the unit that a client's object describes."""
        return cls(**values)

    def dict(self) -> dict[str, Any]:
        """Return all fields by name."""
        return dict(vars(self))

    def copy(self) -> ControlNetUnit:
        """Return another one with the same values."""
        return ControlNetUnit(**vars(self))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ControlNetUnit) and vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"ControlNetUnit({', '.join(f'{name}={value!r}' for name, value in vars(self).items())})"


class ControlNetUiGroup:
    """sd-webui-controlnet's page, as far as Replacer asks for it while it makes its own, without our units."""

    a1111_context: ClassVar[Any] = SimpleNamespace()  # where it leaves its own widgets
    all_ui_groups: ClassVar[list[Any]] = []


class EmptySlot(ControlNetUnit):
    """A slot that nobody has filled: switched off, so that extensions that look at all units skip it."""


class ClientUnit(ControlNetUnit):
    """A client's object where others look at units. Until one of them changes it, the client's own words count."""

    __slots__ = ("_made", "_said")  # beside the fields, not among them

    def __init__(self, said: Mapping[str, Any]) -> None:
        super().__init__(**said)
        self._said, self._made = said, dict(vars(self))

    @property
    def given(self) -> Mapping[str, Any] | ControlNetUnit:
        """Return the client's object itself, or what others have made of it."""
        now, made = vars(self), self._made
        return self._said if now.keys() == made.keys() and all(now[name] is made[name] for name in made) else self


def as_given(unit: Any) -> Any:
    """Return the unit in a slot as it was given, or as others have changed it."""
    return unit.given if isinstance(unit, ClientUnit) else unit


def is_empty(unit: Any) -> bool:
    """Return whether nobody has put a unit here; what others switch on is one."""
    return unit is None or (isinstance(unit, EmptySlot) and not vars(unit)["enabled"])
