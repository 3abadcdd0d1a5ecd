"""Pictures that are hints already, as they are or with black and white exchanged."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .base import Output, Preprocessor

if TYPE_CHECKING:
    from .base import Image


def _same(images: Image) -> Image:
    return images


def _inverted(images: Image) -> Image:
    return 255 - images


NONE = Preprocessor(
    id="none",
    title="None",
    doc="The picture itself, for a control image that is a hint already.",
    run=_same,
    output=Output.RGB,
    control_types=("InstructP2P",),
    batchable=True,
    resizes=False,
)

INVERT = Preprocessor(
    id="invert",
    title="Invert",
    doc="Every channel inverted: a drawing of black lines on white becomes the white on black that models were "
    "trained with.",
    run=_inverted,
    output=Output.RGB,
    aliases=("invert (from white bg & black line)",),
    control_types=("Canny", "Lineart", "Scribble", "MLSD"),
    batchable=True,
    resizes=False,
)
