"""The choices that a unit has, each with all of its names: our words, the WebUI's, and those of other programs.

One set of names for every edge. The first name of each is what sd-webui-controlnet shows and writes; its clients also
send numbers, which are places in these lists.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Generic, TypeVar, cast

from ..core.errors import UnitError
from ..core.modes import ControlMode, ResizeMode
from ..core.schedule import RangeBasis
from ..models.kinds.unions import AUTOMATIC, KINDS
from .text import shown

Choice = TypeVar("Choice", bound=Enum)
DIGITS = 3  # of a number that stands for a choice


class HiresOption(Enum):
    """In which pass of a hires fix a unit acts."""

    BOTH = "Both"
    LOW = "Low res only"
    HIGH = "High res only"


class UnionType(Enum):
    """What the hint of a union model shows, in the order of its task numbers."""

    OPENPOSE = "OpenPose"
    DEPTH = "Depth"
    SOFT_EDGE = "Soft Edge"
    HARD_EDGE = "Hard Edge"
    NORMAL_MAP = "Normal Map"
    SEGMENTATION = "Segmentation"
    TILE = "Tile"
    INPAINT = "Inpaint"
    UNKNOWN = "Unknown"


@dataclass(frozen=True, slots=True)
class Choices(Generic[Choice]):
    """The members of an enum in the order of their numbers, each with its names."""

    names: Mapping[Choice, tuple[str, ...]]

    def label(self, member: Choice) -> str:
        """Return the name that the WebUI shows and writes."""
        return self.names[member][0]

    @property
    def labels(self) -> tuple[str, ...]:
        """Return the names that the WebUI shows, in the order of their numbers."""
        return tuple(names[0] for names in self.names.values())

    @property
    def words(self) -> tuple[str, ...]:
        """Our own word for each, in the same order."""
        return tuple(str(member.value) for member in self.names)

    def read(self, name: str, value: object) -> Choice:
        """Return the member that is meant: itself, a name in any case, its number, or somebody else's enum.

        name: of the field, for messages. UnitError for anything else.
        """
        members = list(self.names)
        if isinstance(value, Enum):
            if value in members:
                return cast("Choice", value)
            value = value.value
        if isinstance(value, str):
            word = value.strip().lower()
            for member, names in self.names.items():
                if word in (each.lower() for each in (str(member.value), *names)):
                    return member
            value = int(word) if word.isdecimal() and len(word) <= DIGITS else value
        if isinstance(value, (int, float)) and not isinstance(value, bool) and value in range(len(members)):
            return members[int(value)]
        raise UnitError(
            f"{name} is {shown(value)}, expected one of {', '.join(self.words)}, or 0 to {len(members) - 1}"
        )


# The names of enums' members are what reForge writes into pictures.
RESIZES = Choices(
    {
        ResizeMode.JUST_RESIZE: ("Just Resize", "stretch", "ResizeMode.RESIZE"),
        ResizeMode.CROP: (
            "Crop and Resize", "crop", "Inner Fit (Scale to Fit)", "Scale to Fit (Inner Fit)", "ResizeMode.INNER_FIT",
        ),
        ResizeMode.FILL: (
            "Resize and Fill", "fill", "Outer Fit (Shrink to Fit)", "Envelope (Outer Fit)", "ResizeMode.OUTER_FIT",
        ),
    }
)  # fmt: skip
MODES = Choices(
    {
        ControlMode.BALANCED: ("Balanced", "ControlMode.BALANCED"),
        ControlMode.PROMPT: ("My prompt is more important", "Prefer Prompt", "ControlMode.PROMPT"),
        ControlMode.CONTROL: ("ControlNet is more important", "Prefer ControlNet", "ControlMode.CONTROL"),
    }
)
HIRES = Choices(
    {
        HiresOption.BOTH: ("Both", "HiResFixOption.BOTH"),
        HiresOption.LOW: ("Low res only", "low", "HiResFixOption.LOW_RES_ONLY"),
        HiresOption.HIGH: ("High res only", "high", "HiResFixOption.HIGH_RES_ONLY"),
    }
)
BASES = Choices({RangeBasis.WEBUI: ("webui",), RangeBasis.STEPS: ("steps",), RangeBasis.NOISE: ("noise",)})
UNION_TYPES = Choices(
    {kind: (kind.value, *words) for kind, words in zip(UnionType, (*KINDS, (AUTOMATIC,)), strict=True)}
)
