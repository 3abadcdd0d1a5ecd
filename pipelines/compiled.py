"""Base networks under `torch.compile`, which do not ask for hooks that were registered after they were compiled.

Where a unit acts by a hook, the compiled parts around it run as they are written for as long as it is attached: a
slower block is better than a unit that is ignored. What units hand over as arguments of the U-Net reaches compiled
parts as well.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from torch import nn

from ..core.network.attach import Patches
from ..core.network.points import MIDDLE, PROMPT, Part, Point

CALL = "_compiled_call_impl"  # where `nn.Module.compile` puts what is called in place of the module's own code
WRITTEN = "_orig_mod"  # of what `torch.compile` makes of a module


class Compiled:
    """The compiled parts of a U-Net: itself, or blocks of it (`compile_repeated_blocks`)."""

    def __init__(self, unet: Any) -> None:
        self._around: dict[nn.Module, list[nn.Module]] = {}
        for part in unet.modules():
            if getattr(part, CALL, None) is not None:
                for inner in part.modules():
                    self._around.setdefault(inner, []).append(part)

    def write_out(self, patches: Patches, module: nn.Module | None) -> None:
        """Let the compiled parts around a module run as they are written until the patches end."""
        for part in self._around.get(module, ()) if module is not None else ():
            patches.replace(part, CALL, None)


def write_out_whole(patches: Patches, pipeline: Any, points: Collection[Point]) -> None:
    """Give a pipeline the U-Net itself in place of what `torch.compile(unet)` made, where units act by hooks in it."""
    written = getattr(pipeline.unet, WRITTEN, None)
    if written is not None and any(not _by_argument(point) for point in points):
        patches.replace(pipeline, "unet", written)


def _by_argument(point: Point) -> bool:
    return point.part is Part.SKIP or point in (MIDDLE, PROMPT)
