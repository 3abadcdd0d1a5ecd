"""Pictures that are hints already, as they are or with colours exchanged, and pictures that controls compare with."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from ..declaration import Output, Parameter
from ..perform import Preprocessor

if TYPE_CHECKING:
    import numpy as np

    from ..resize import Image
else:
    from ..lazy import np


NO_PREPROCESSOR = (
    "a reference is a control model without a file, and no preprocessor: choose it as the model, with the preprocessor "
    "none"
)


def _same(images: Image) -> Image:
    return images


def _reference(images: Image, **_settings: float) -> Image:
    """Return the pictures; the fidelity is for the control, and declared here because WebUIs show it with these."""
    return images


def _inverted(images: Image) -> Image:
    return np.subtract(255, images, dtype=np.uint8)


def _mirrored(images: Image, channels: list[int]) -> Image:
    mirrored = np.array(images)
    mirrored[..., channels] = 255 - mirrored[..., channels]
    return mirrored


def _normal_entry(kind: str, program: str, axes: str, channels: list[int]) -> Preprocessor:
    """Return what gives a normal map of another program the colours of ControlNet 1.1: red is left, green is up."""
    return Preprocessor(
        id=f"normal_{kind}",
        title=f"Normals ({program} map)",
        doc=f"A normal map that is there already, of a program that follows {program} ({axes}), in the colours that "
        "models of ControlNet 1.1 were trained with.",
        run=partial(_mirrored, channels=channels),
        output=Output.RGB,
        polarity="red is left, green is up, blue is towards the viewer",
        control_types=("NormalMap",),
        batchable=True,
    )


def _reference_entry(kind: str, title: str, doc: str) -> Preprocessor:
    return Preprocessor(
        id=kind,
        title=title,
        doc=doc,
        run=_reference,
        output=Output.RGB,
        control_types=("Reference",),
        no_hint=NO_PREPROCESSOR,
        parameters=(
            Parameter(name="fidelity", label="Style fidelity (only for balanced mode)", default=0.5, minimum=0.0,
                      maximum=1.0, step=0.01, shapes_hint=False, doc="How closely the control follows the reference."),
        ),
        batchable=True,
        resizes=False,
    )  # fmt: skip


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

NORMAL_OPENGL = _normal_entry("opengl", "OpenGL", "red is right, green is up", [0])
NORMAL_DIRECTX = _normal_entry("directx", "DirectX", "red is right, green is down", [0, 1])

REFERENCE_ONLY = _reference_entry(
    "reference_only",
    "Reference only",
    "The picture itself: the reference control shows it to the model's attention. No control model is needed.",
)
REFERENCE_ADAIN = _reference_entry(
    "reference_adain",
    "Reference AdaIN",
    "The picture itself: the reference control moves the statistics of features towards it.",
)
REFERENCE_BOTH = _reference_entry(
    "reference_adain+attn",
    "Reference AdaIN + attention",
    "The picture itself: the reference control uses it for attention and for statistics.",
)
