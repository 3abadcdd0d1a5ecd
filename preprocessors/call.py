"""A call of a preprocessor: what was asked for, checked before anything is done.

What is no picture, no mask or no seed is refused here, in words.
"""

# pyright: reportUnknownMemberType=false
# numpy declares some of its methods incompletely; what they return is declared here instead.

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

from ..core.errors import HintError, PreprocessorError
from .declaration import Declaration
from .resize import resize_mask

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from .resize import Image
else:
    from .lazy import np

MAX_PIXELS = 64_000_000  # of one picture; more is a mistake or an attack, and would not fit beside a model
CHUNK_PIXELS = 16_000_000  # of all pictures that a preprocessor without networks gets at once


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """What was asked for, checked: pictures [B, H, W, 3], their masks [B, H, W], the short side, the parameters."""

    batch: Image
    masks: Image | None
    resolution: int | None
    arguments: Mapping[str, Any]

    def part(self, rows: slice | Sequence[int]) -> Call:
        """The same call for some of the pictures."""
        chosen = rows if isinstance(rows, slice) else list(rows)
        masks = None if self.masks is None else self.masks[chosen]
        return replace(self, batch=self.batch[chosen], masks=masks)


def check_present(preprocessor: Declaration) -> None:
    """PreprocessorError if the entry only says why it does nothing."""
    if preprocessor.absent:
        raise PreprocessorError(f"{preprocessor.id}: {preprocessor.absent}")


def check_image(image: object, owner: str) -> None:
    """HintError unless it is a picture or a batch."""
    expected = "a uint8 RGB picture [H, W, 3] or a batch of them [B, H, W, 3]"
    if not isinstance(image, np.ndarray):
        raise HintError(f"{owner}: expected {expected} as a numpy array, got {type(image).__name__}")
    array = cast("NDArray[Any]", image)
    if array.dtype != np.uint8 or array.ndim not in (3, 4) or array.shape[-1] != 3 or 0 in array.shape:
        raise HintError(f"{owner}: expected {expected}, got {array.dtype} {list(array.shape)}")


def check_mask(mask: object, batch: Image, preprocessor: Declaration) -> Image | None:
    """The masks [B, H, W] of a batch, 0 or 255, at the pictures' size; None where none is taken."""
    owner = preprocessor.id
    if not preprocessor.takes_mask:
        if mask is not None:
            raise HintError(f"{owner} takes no mask: leave it out, or choose an inpaint preprocessor")
        return None
    expected = "a uint8 mask [H, W], or one for each picture [B, H, W], 255 where the model is to invent"
    if not isinstance(mask, np.ndarray):
        raise HintError(f"{owner} needs {expected}, got {'none' if mask is None else type(mask).__name__}")
    array = cast("NDArray[Any]", mask)
    counts = (1, batch.shape[0])
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or 0 in array.shape or array.shape[:-2] not in (
        (), *((count,) for count in counts)
    ):  # fmt: skip
        raise HintError(f"{owner}: expected {expected}, got {array.dtype} {list(array.shape)}")
    rows = array if array.ndim == 3 else array[None]
    scaled = np.stack([resize_mask(row, (batch.shape[1], batch.shape[2])) for row in rows])
    return np.broadcast_to(scaled, batch.shape[:3])


def check_seed(seed: object, owner: str) -> int:
    """The seed as an int; PreprocessorError unless it is a whole number from 0 on."""
    if isinstance(seed, bool) or not hasattr(seed, "__index__") or int(seed) < 0:  # pyright: ignore[reportArgumentType]
        raise PreprocessorError(f"{owner}: the seed is {seed!r}; it must be a whole number from 0 on")
    return int(seed)  # pyright: ignore[reportArgumentType]
