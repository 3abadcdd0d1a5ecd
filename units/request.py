"""Everything a person can say about one unit, each field once: `UnitRequest`, and the table of its fields, `FIELDS`.

Checks, bounds of sliders, the command line and the documentation come from this table. A host may have another default
for the basis of ranges, and a widget may show less than the bounds; neither gives a field another meaning.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ..core.errors import UnitError
from ..core.modes import ControlMode, ResizeMode
from ..core.reuse.said import OFF, Reuse
from ..core.schedule import Keyframe, RangeBasis, Schedule
from ..core.wording import shortest
from ..preprocessors.declaration import RESOLUTION
from . import text
from .blocks import BlockWeights
from .choices import BASES, HIRES, MODES, RESIZES, Choices, HiresOption
from .text import Option

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    # A file, several files of one size, or pixels: pictures are [H, W, 3], masks [H, W]; batches [B, ...].
    Picture = Path | tuple[Path, ...] | NDArray[np.uint8]

AUTO = "auto"  # the preprocessor that the model's own file names
NONE = "none"  # the picture itself
BETWEEN = "|"  # files of one unit

Reader = Callable[[str, object], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One field of a unit: what it means, what it may be, and how it is read from a person's words."""

    name: str
    meaning: str
    default: object
    read: Reader
    write: Callable[[Any], str] = str
    least: float | None = None  # bounds of numbers, both included
    most: float | None = None
    choices: Choices[Any] | None = None
    short: str = ""  # its name on the command line, if that is another one

    @property
    def expected(self) -> str:
        """Return what it may be, in words; empty for text, pictures and tables."""
        if self.choices is not None:
            return ", ".join(self.choices.words)
        if self.least is None or self.most is None:
            return ""
        return f"{shortest(self.least)} to {shortest(self.most)}"

    def check(self, value: Any) -> None:
        """Raise UnitError for a number that is out of bounds or not finite."""
        if value is None or self.least is None or self.most is None:
            return
        if not math.isfinite(value) or not self.least <= value <= self.most:
            raise UnitError(f"{self.name.replace('_', ' ')} is {shortest(value)}, expected {self.expected}")


def _said(meaning: str, default: Any, read: Reader, **more: Any) -> Any:
    """Return a dataclass field with what the table says of it."""
    about = {"meaning": meaning, "read": read, **more}
    if callable(default):
        return field(default_factory=default, metadata=about)
    return field(default=default, metadata=about)


def _chosen(meaning: str, default: Any, choices: Choices[Any]) -> Any:
    return _said(meaning, default, choices.read, choices=choices, write=_word)


def _number(meaning: str, default: float, least: float, most: float) -> Any:
    return _said(meaning, default, text.read_number, least=least, most=most, write=text.write_number)


def _truth(meaning: str, default: bool) -> Any:
    return _said(meaning, default, text.read_boolean, write=_yes_or_no)


def _word(member: Enum) -> str:
    return str(member.value)


def _yes_or_no(value: bool) -> str:
    return "yes" if value else "no"


def _read_picture(name: str, value: object) -> object:
    if not isinstance(value, str):
        return value
    paths = [Path(part.strip()) for part in value.split(BETWEEN) if part.strip()]
    if not paths:
        raise UnitError(f"{name} is empty, expected a file")
    return tuple(paths) if len(paths) > 1 else paths[0]


def _write_picture(value: object) -> str:
    return BETWEEN.join(map(str, cast("tuple[Path, ...]", value))) if isinstance(value, tuple) else str(value)


def _optional(read: Reader) -> Reader:
    return lambda name, value: None if value in (None, "") else read(name, value)


def _optional_text(value: object) -> str:
    return "" if value is None else str(value)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class UnitRequest:
    """One unit as it was asked for: checked, but nothing is read, drawn or loaded."""

    image: Picture | None = _said(
        f"the picture, or one for each picture of a batch; several files with {BETWEEN} between them",
        None,
        _read_picture,
        write=_write_picture,
    )
    preprocessor: str = _said(
        f"what makes the hint of the picture; {NONE} takes it as it is, {AUTO} is the one that the model's file names",
        NONE,
        text.read_text,
    )
    parameters: Mapping[str, float] = _said(
        "numbers of the preprocessor by name; those left out are at their defaults",
        dict[str, float],
        text.read_parameters,
        write=text.write_parameters,
    )
    seed: int | None = _said(
        "of preprocessors that draw random numbers; not given, it is the picture's",
        None,
        _optional(text.read_whole),
        least=0,
        most=2**63 - 1,
        write=_optional_text,
    )
    model: str = _said("the control model: a file, or its name in a program's list", "", text.read_text)
    weight: float = _number("how strongly the unit acts", 1.0, -10.0, 10.0)
    start: float = _number("where in the run it begins to act", 0.0, 0.0, 1.0)
    end: float = _number("where in the run it stops", 1.0, 0.0, 1.0)
    basis: RangeBasis = _chosen(
        "what start, end and the places of the curve mean: shares of the steps, places on the noise schedule, or as "
        "sd-webui-controlnet counts",
        RangeBasis.STEPS,
        BASES,
    )
    curve: tuple[Keyframe, ...] = _said(
        "how the weight moves over the run, as keyframes such as 0: 1; 0.5: 0.3 ease-in",
        (),
        text.read_curve,
        write=text.write_curve,
    )
    mode: ControlMode = _chosen(
        "whose word counts more: balanced, the prompt's (fine blocks are softened), or the control's (softened, and on "
        "the rows of the prompt alone)",
        ControlMode.BALANCED,
        MODES,
    )
    block_weights: BlockWeights | None = _said(
        "factors of single blocks, which replace those of the mode: numbers, soft:0.825, or the name of a shape",
        None,
        text.read_block_weights,
        write=text.write_block_weights,
    )
    resize: ResizeMode = _chosen(
        "how a hint of another shape is brought to the picture's: stretch, crop, or fill", ResizeMode.CROP, RESIZES
    )
    pixel_perfect: bool = _truth("whether the preprocessor works at the size that the result needs", False)
    resolution: int | None = _said(
        "short side in pixels at which the preprocessor works; not given, it is the picture's own",
        None,
        _optional(text.read_whole),
        least=RESOLUTION.minimum,
        most=RESOLUTION.maximum,
        write=_optional_text,
    )
    effect_mask: Picture | None = _said("where the unit acts; white is full effect", None, _read_picture, short="mask")
    inpaint_mask: Picture | None = _said(
        "what is to be invented, in white, for inpainting preprocessors", None, _read_picture, short="inpaint"
    )
    options: Mapping[str, Option] = _said(
        "options of the model's family by name, such as the control type of a union model",
        dict[str, Option],
        text.read_options,
        write=text.write_options,
    )
    delta_strength: float = _number("strength of the model's changes to the base model's weights", 1.0, -10.0, 10.0)
    uncond_weight: float = _number(
        "factor of the weight on the negative prompt; at 0 the unit acts on the positive prompt alone", 1.0, 0.0, 1.0
    )
    reuse: Reuse = _said(
        "on which steps the unit adds again what it computed before, which is faster: off, light, strong, the steps "
        "that are computed (0 1 2 5 9), or change:0.1, which computes where so much has changed",
        OFF,
        text.read_reuse,
        write=text.write_reuse,
    )
    hires: HiresOption = _chosen("in which pass of a hires fix the unit acts", HiresOption.BOTH, HIRES)
    enabled: bool = _truth("whether the unit is on", True)

    def __post_init__(self) -> None:
        for each in FIELDS.values():
            each.check(getattr(self, each.name))
        if self.pixel_perfect and self.resolution is not None:
            raise UnitError(
                f"the unit is pixel perfect and has the resolution {self.resolution}: leave one of the two out"
            )
        _ = self.schedule  # making it checks the range and the curve

    @property
    def schedule(self) -> Schedule:
        """When the unit acts and how strongly."""
        return Schedule(start=self.start, end=self.end, basis=self.basis, keyframes=self.curve)

    @property
    def acts(self) -> bool:
        """Return whether the unit can act at all."""
        return self.enabled and self.weight != 0

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, UnitRequest):
            return NotImplemented
        return all(_equal(getattr(self, name), getattr(other, name)) for name in FIELDS)

    __hash__ = None  # type: ignore[assignment]  # it may hold pixels


FIELDS: Mapping[str, Field] = {
    each.name: Field(
        name=each.name,
        default=each.default_factory() if callable(each.default_factory) else each.default,
        **each.metadata,
    )
    for each in fields(UnitRequest)
}


def read_request(said: Mapping[str, object], **more: Any) -> UnitRequest:
    """Return the request of named fields as a person or a file gives them, by long or short names.

    more: fields that are right already. UnitError for unknown names and wrong values.
    """
    by_name = {name: each for each in FIELDS.values() for name in (each.name, each.short) if name}
    if unknown := [name for name in said if name not in by_name]:
        known = ", ".join(each.short or each.name for each in FIELDS.values())
        raise UnitError(f"a unit has no '{unknown[0]}': it has {known}")
    if both := next((each for each in FIELDS.values() if each.short in said and each.name in said), None):
        raise UnitError(f"a unit has '{both.short}' and '{both.name}', which are the same: leave one of them out")
    read = {by_name[name].name: by_name[name].read(name, value) for name, value in said.items()}
    return UnitRequest(**{**read, **more})


def describe() -> str:
    """Return the table of fields as Markdown, for the documentation."""
    rows = ["| name | default | what it may be | meaning |", "|---|---|---|---|"]
    for each in FIELDS.values():
        name, default = each.short or each.name, "" if each.default is None else each.write(each.default)
        meaning = each.meaning.replace("|", r"\|")  # which would end the cell
        rows.append(f"| `{name}` | {default} | {each.expected} | {meaning} |")
    return "\n".join(rows)


def _equal(a: object, b: object) -> bool:
    """Return whether two values of a field say the same; pixels are compared one by one."""
    if hasattr(a, "shape") or hasattr(b, "shape"):
        import numpy as np

        return type(a) is type(b) and np.array_equal(a, b)  # type: ignore[arg-type]
    return a == b
