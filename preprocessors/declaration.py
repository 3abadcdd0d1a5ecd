"""What a preprocessor says of itself: its names, its parameters, what it takes and gives.

Every edge draws its nodes, sliders and options from these declarations, so parameters have one name, one default and
one range everywhere. Values only, from the standard library: the list of all preprocessors costs nothing.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from ..core.embedding import Embedding
from ..core.errors import PreprocessorError
from ..core.wording import shortest
from .networks.network import Network

MAX_PIXELS = 64_000_000  # of one picture; more is a mistake or an attack, and would not fit beside a model
PAD = 64  # pixels; sd-webui-controlnet pads to it (`resize_image_with_pad`), and networks need a multiple of 8 to 64


class Output(Enum):
    """What a result holds: pixels, all but MASKED as three channels, or an embedding, which is no picture."""

    BINARY = "binary"  # black or white
    GRAY = "gray"  # three equal channels
    RGB = "rgb"
    LABELS = "labels"  # flat colours that mean something: never blend them
    MASKED = "rgb and mask"  # four channels; the last is 255 where the model is to invent
    EMBEDDING = "embedding"  # floats [T, D]: what an image encoder saw


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """One number that a user may choose; an integer if its default is one. The range includes both ends."""

    name: str
    label: str
    default: int | float
    minimum: int | float
    maximum: int | float
    step: int | float
    unit: str = ""
    doc: str = ""
    shapes_hint: bool = True  # False: the control reads it, and the hint is the same for every value

    @property
    def integer(self) -> bool:
        """Return whether only whole numbers make sense."""
        return isinstance(self.default, int)

    def check(self, value: object, owner: str) -> int | float:
        """Return `value` in this parameter's own type (100.0 is 100); PreprocessorError tells the range if not."""
        if isinstance(value, bool) or not _is_number(value):
            raise PreprocessorError(f"{owner}: {self.name} is {value!r}; it must be {self._range()}")
        number = float(value)  # pyright: ignore[reportArgumentType]
        if not self.minimum <= number <= self.maximum or (self.integer and not number.is_integer()):
            raise PreprocessorError(f"{owner}: {self.name} is {shortest(number)}; it must be {self._range()}")
        return int(number) if self.integer else number

    def _range(self) -> str:
        kind = "a whole number" if self.integer else "a number"
        return f"{kind} from {shortest(self.minimum)} to {shortest(self.maximum)}{' ' + self.unit if self.unit else ''}"


RESOLUTION = Parameter(
    name="resolution", label="Resolution", default=512, minimum=16, maximum=8192, step=8, unit="px",
    doc="Short side at which the preprocessor looks at the picture; the result has this size.",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Declaration:
    """What a preprocessor is called, what it takes, what it gives, and the function that does it.

    `run(images, *networks, **parameters)` gets uint8 [B, H, W, 3] if `batchable`, else one [H, W, 3], and returns the
    same shape or, with three equal channels left out, [B, H, W] or [H, W]. It gets `seed` too if it is not
    `deterministic`, `mask` ([B, H, W] or [H, W], 0 or 255) if it `takes_mask`, and each of its networks, loaded.

    With `finish`, what `run` returns may be floats; they are cut to the picture's size, so that nothing of the padding
    enters a minimum or a median, and `finish(result, image, **parameters)` makes the hint of each picture of them.
    With an `embedding`, `run` returns floats [B, T, D], which are handed on as they are.
    With `finds_poses`, `run` returns a `Poses` for each picture, which `finish` draws.
    """

    id: str
    title: str
    doc: str
    run: Callable[..., Any]
    output: Output
    finish: Callable[..., Any] | None = None
    finds_poses: bool = False  # True: `poses` tells what is drawn; needs `batchable` and a `pad` of 1
    polarity: str = ""  # what is bright in the result, such as "near is white"
    aliases: tuple[str, ...] = ()  # names of other programs for the same thing
    control_types: tuple[str, ...] = ()  # as sd-webui-controlnet groups them; the models that read such a hint
    parameters: tuple[Parameter, ...] = ()
    networks: tuple[Network, ...] = ()  # what must be loaded first, in the order in which `run` takes them
    embedding: Embedding | None = None  # what it hands on instead of pixels
    by_model: bool = False  # True: it stands for the one whose embedding the unit's control model reads
    absent: str = ""  # why this name is known and yet does nothing here; such entries are not in REGISTRY
    no_hint: str = ""  # why no control model reads the result; such entries are in REGISTRY, but not offered for units
    takes_mask: bool = False
    deterministic: bool = True  # False: the result depends on the seed too (and on nothing else)
    batchable: bool = False
    resizes: bool = True  # False: `resolution` changes nothing
    grows: bool = False  # True: the result is larger than the picture
    pad: int = PAD  # at a given resolution, sides are filled up to a multiple of this, and cut again
    version: int = 1  # goes up whenever the same call gives another result, so that no cache gives the old one

    @property
    def refusal(self) -> str:
        """Why no unit can use it, in a sentence; "" if one can."""
        return self.absent or self.no_hint

    def check_gives_hint(self) -> None:
        """Raise PreprocessorError if no unit can use it: its result is nothing that a control model reads."""
        if self.refusal:
            raise PreprocessorError(f"{self.id}: {self.refusal}")

    def settings(self, parameters: Mapping[str, object]) -> dict[str, int | float]:
        """Return every parameter of this preprocessor, the given ones checked and the others at their defaults."""
        known = {parameter.name: parameter for parameter in self.parameters}
        for name in parameters:
            if name not in known:
                raise PreprocessorError(f"{self.id} has no parameter {name!r}: {_suggestion(name, known)}")
        return {name: each.check(parameters.get(name, each.default), self.id) for name, each in known.items()}


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """Return up to three of the `known` names that look like `name`, best first."""
    by_key = {each.lower(): each for each in known}
    return [by_key[key] for key in difflib.get_close_matches(name.strip().lower(), by_key, n=3, cutoff=0.5)]


def _suggestion(name: str, known: Mapping[str, Parameter]) -> str:
    if not known:
        return "it has none"
    close = nearest(name, known)
    return f"did you mean {close[0]!r}?" if close else f"it has {', '.join(known)}"


def _is_number(value: object) -> bool:
    """Return whether it is a finite number of Python or numpy; text is none, also if it looks like one."""
    if isinstance(value, (str, bytes)) or not (hasattr(value, "__float__") or hasattr(value, "__index__")):
        return False
    return getattr(value, "ndim", 0) == 0 and math.isfinite(float(value))  # pyright: ignore[reportArgumentType]
