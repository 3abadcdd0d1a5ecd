"""Effects between our places and the lists of ComfyUI and Forge, whose base networks consume them from the end.

A U-Net takes the last element of `input` at its first block, and of `output` at its deepest, so lists must be complete.
Transformers index their lists from the front.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .effects import Effects

Lists = dict[str, list[Tensor | None]]


def to_lists(residuals: Effects, blocks: int | None) -> Lists:
    """Return fresh lists for a U-Net of this many input blocks, or (None) for another network."""
    streams, skips = list(residuals.input), list(residuals.output)
    if blocks is not None:
        streams = (streams + [None] * (blocks - len(streams)))[::-1] if streams else []
        skips += [None] * (blocks - len(skips)) if skips else []
    return {"input": streams, "middle": list(residuals.middle), "output": skips}


def to_residuals(lists: Any, blocks: int | None) -> Effects:
    """Return what a control of the host returned, as effects."""
    streams = list(lists.get("input", ()))
    return Effects(
        input=tuple(streams if blocks is None else streams[::-1]),
        middle=tuple(lists.get("middle", ())),
        output=tuple(lists.get("output", ())),
    )
