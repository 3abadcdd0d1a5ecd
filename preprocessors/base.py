"""What a preprocessor is: a declaration beside its code, and the one way of calling it.

Every edge draws its nodes, sliders and options from these declarations, so parameters have one name, one default and
one range everywhere. Pictures are uint8 RGB, [H, W, 3] or [B, H, W, 3], from end to end; floats appear only inside.
"""

# pyright: reportUnknownMemberType=false
# numpy declares some of its methods incompletely; what they return is declared here instead.

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, cast

from ..core.errors import HintError, PreprocessorError
from .resize import gray_to_rgb, pad_to_multiple, scale_short_side, scaled_size

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Image = NDArray[np.uint8]
else:
    from .lazy import np

PAD = 64  # pixels; sd-webui-controlnet pads to it (`resize_image_with_pad`), and networks need a multiple of 8 to 64
MAX_PIXELS = 64_000_000  # of one picture; more is a mistake or an attack, and would not fit beside a model


class Output(Enum):
    """What the pixels of a result hold; all three come as three channels."""

    BINARY = "binary"  # black or white
    GRAY = "gray"  # three equal channels
    RGB = "rgb"


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

    @property
    def integer(self) -> bool:
        """Whether only whole numbers make sense."""
        return isinstance(self.default, int)

    def check(self, value: object, owner: str) -> int | float:
        """`value` as this parameter's own type (100.0 is 100); PreprocessorError, naming the range, if it is none."""
        if isinstance(value, bool) or not _is_number(value):
            raise PreprocessorError(f"{owner}: {self.name} is {value!r}; it must be {self._range()}")
        number = float(value)  # pyright: ignore[reportArgumentType]
        if not self.minimum <= number <= self.maximum or (self.integer and not number.is_integer()):
            raise PreprocessorError(f"{owner}: {self.name} is {number:g}; it must be {self._range()}")
        return int(number) if self.integer else number

    def _range(self) -> str:
        kind = "a whole number" if self.integer else "a number"
        return f"{kind} from {self.minimum:g} to {self.maximum:g}{' ' + self.unit if self.unit else ''}"


RESOLUTION = Parameter(
    name="resolution", label="Resolution", default=512, minimum=16, maximum=8192, step=8, unit="px",
    doc="Short side at which the preprocessor looks at the picture; the result has this size.",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocessor:
    """Photograph -> hint: what it is called, what it takes, what it gives, and the function that does it.

    `run(images, **parameters)` gets uint8 [B, H, W, 3] if `batchable`, else one [H, W, 3], and returns the same shape
    or, with three equal channels left out, [B, H, W] or [H, W]. It gets `seed` too if it is not `deterministic`.
    """

    id: str
    title: str
    doc: str
    run: Callable[..., Image]
    output: Output
    aliases: tuple[str, ...] = ()  # names of other programs for the same thing
    control_types: tuple[str, ...] = ()  # as sd-webui-controlnet groups them; the models that read such a hint
    parameters: tuple[Parameter, ...] = ()
    deterministic: bool = True  # False: the result depends on the seed too (and on nothing else)
    batchable: bool = False
    resizes: bool = True  # False: the result always has the picture's own size
    pad: int = PAD  # at a given resolution, sides are filled up to a multiple of this, and cut again

    def __call__(self, image: Image, *, resolution: int | None = None, seed: int = 0, **parameters: object) -> Image:
        """The hint of uint8 RGB `image`, [H, W, 3] or a batch [B, H, W, 3]; the result is a new array of that rank.

        `resolution` None works at the picture's own size. A number scales the short side to so many pixels, and the
        long side with it (both rounded): the result has that size. Source: `resize_image_with_pad` of
        sd-webui-controlnet.

        Raises HintError for what is no picture, PreprocessorError for parameters that do not exist or are out of range.
        """
        _check_image(image, self.id)
        arguments: dict[str, Any] = self.settings(parameters)
        if not self.deterministic:
            arguments["seed"] = _check_seed(seed, self.id)
        batch = image if image.ndim == 4 else image[None]
        if resolution is not None and self.resizes:
            result = self._run_at(int(RESOLUTION.check(resolution, self.id)), batch, arguments)
        else:
            result = self._run(np.ascontiguousarray(batch), arguments)
        if np.may_share_memory(result, image):
            result = np.array(result)
        return result if image.ndim == 4 else result[0]

    def settings(self, parameters: Mapping[str, object]) -> dict[str, int | float]:
        """Every parameter of this preprocessor, the given ones checked and the others at their defaults."""
        known = {parameter.name: parameter for parameter in self.parameters}
        for name in parameters:
            if name not in known:
                raise PreprocessorError(f"{self.id} has no parameter {name!r}: {_suggestion(name, known)}")
        return {name: each.check(parameters.get(name, each.default), self.id) for name, each in known.items()}

    def _run_at(self, resolution: int, batch: Image, arguments: Mapping[str, Any]) -> Image:
        height, width = scaled_size((batch.shape[1], batch.shape[2]), resolution)
        if height * width > MAX_PIXELS:
            raise PreprocessorError(
                f"{self.id}: at resolution {resolution} a picture of {batch.shape[2]}x{batch.shape[1]} becomes "
                f"{width}x{height}, more than {MAX_PIXELS // 10**6} megapixels: choose a smaller resolution"
            )
        scaled = [pad_to_multiple(scale_short_side(image, resolution), self.pad) for image in batch]
        return np.ascontiguousarray(self._run(np.stack(scaled), arguments)[:, :height, :width])

    def _run(self, batch: Image, arguments: Mapping[str, Any]) -> Image:
        if self.batchable:
            results = self.run(batch, **arguments)
            return results if results.ndim == 4 else np.stack([gray_to_rgb(result) for result in results])
        rows = np.empty_like(batch)
        for row, image in zip(rows, batch, strict=True):
            result = self.run(image, **arguments)
            row[...] = result if result.ndim == 3 else gray_to_rgb(result)
        return rows


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """Up to three of the `known` names that look like `name`, best first."""
    by_key = {each.lower(): each for each in known}
    return [by_key[key] for key in difflib.get_close_matches(name.strip().lower(), by_key, n=3, cutoff=0.5)]


def _suggestion(name: str, known: Mapping[str, Parameter]) -> str:
    if not known:
        return "it has none"
    close = nearest(name, known)
    return f"did you mean {close[0]!r}?" if close else f"it has {', '.join(known)}"


def _is_number(value: object) -> bool:
    """Python's and numpy's numbers, not NaN or infinite; text is none, also if it looks like one."""
    if isinstance(value, (str, bytes)) or not (hasattr(value, "__float__") or hasattr(value, "__index__")):
        return False
    return getattr(value, "ndim", 0) == 0 and math.isfinite(float(value))  # pyright: ignore[reportArgumentType]


def _check_seed(seed: object, owner: str) -> int:
    if isinstance(seed, bool) or not hasattr(seed, "__index__") or int(seed) < 0:  # pyright: ignore[reportArgumentType]
        raise PreprocessorError(f"{owner}: the seed is {seed!r}; it must be a whole number from 0 on")
    return int(seed)  # pyright: ignore[reportArgumentType]


def _check_image(image: object, owner: str) -> None:
    expected = "a uint8 RGB picture [H, W, 3] or a batch of them [B, H, W, 3]"
    if not isinstance(image, np.ndarray):
        raise HintError(f"{owner}: expected {expected} as a numpy array, got {type(image).__name__}")
    array = cast("NDArray[Any]", image)
    if array.dtype != np.uint8 or array.ndim not in (3, 4) or array.shape[-1] != 3 or 0 in array.shape:
        raise HintError(f"{owner}: expected {expected}, got {array.dtype} {list(array.shape)}")
