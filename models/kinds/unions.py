"""The kinds of hints that ControlNet-Union tells apart, and the option by which a unit names them; without torch."""

from __future__ import annotations

from ...core.options import Option

AUTOMATIC = "auto"  # no kind is named: the network reads the hint as it is
# The kinds of hints in the order of the rows of `task_embedding`, each with its other names: those of preprocessors'
# control types, of sd-webui-controlnet, and of ComfyUI (`comfy/cldm/control_types.py`).
KINDS: tuple[tuple[str, ...], ...] = (
    ("openpose", "pose", "0"),
    ("depth", "1"),
    ("softedge", "scribble", "hed", "pidi", "ted", "2"),
    ("canny", "lineart", "anime lineart", "mlsd", "hard edge", "3"),
    ("normal", "normal map", "4"),
    ("segmentation", "segment", "seg", "5"),
    ("tile", "blur", "6"),
    ("repaint", "inpaint", "7"),
)
NAMES = tuple(kind for kind, *_ in KINDS)
OPTION = "union_control_type"  # as sd-webui-controlnet calls it
SHORT = "types"  # its name among a unit's own fields on the command line


def offers(count: int = len(KINDS), learned: str | None = None) -> tuple[Option, ...]:
    """Return what units may tell a union that has so many kinds of hints.

    learned: those that it was trained on, with commas between; None is all of them.
    """
    known = NAMES[:count] if learned is None else learned.split(",")
    words = {AUTOMATIC: ("automatic", "unknown"), **{kind: more for kind, *more in KINDS[:count] if kind in known}}
    return (
        Option(
            name=OPTION,
            label="Union Control Type",
            meaning="what the hint shows; several act together in one pass, with weights: depth:1+tile:0.5",
            default=AUTOMATIC,
            words={value: tuple(more) for value, more in words.items()},
            several=True,
            of_hint=True,
        ),
    )
