"""Base networks under `torch.compile`, which do not ask for hooks that were registered after they were compiled.

Where a unit acts by a hook, the compiled parts around it run as they are written for as long as it is attached: a
slower block is better than a unit that is ignored. What units hand over as arguments of the U-Net reaches compiled
parts as well.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from ..core.network.attach import Patches

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

    def run_as_written(self, patches: Patches, module: nn.Module | None) -> None:
        """Run the compiled parts around a module as they are written, until the patches end."""
        for part in self._around.get(module, ()) if module is not None else ():
            patches.replace(part, CALL, None)


def run_whole_as_written(patches: Patches, pipeline: Any) -> None:
    """Give a pipeline the U-Net itself in place of what `torch.compile(unet)` made of it, until the patches end."""
    written = getattr(pipeline.unet, WRITTEN, None)
    if written is not None:
        patches.replace(pipeline, "unet", written)
