"""Effects that fit themselves to the base network where another node changes its sizes on the way.

Deep Shrink and its like halve the base network's maps inside its forward, which no control can know. The host would
drop the residual with a line in its log; these are resized to the map that they are added to.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...core.network.lists import Lists

RESIZING = ("input_block_patch", "input_block_patch_after_skip")  # patches of the host that can change a map's size

_log = logging.getLogger("controlstack")


def may_resize(options: Mapping[str, Any]) -> bool:
    """Return whether a patch on the base network could change the size of its maps."""
    return any(options.get("patches", {}).get(name) for name in RESIZING)


def flexible(lists: Lists) -> Lists:
    """Return the same residuals, able to be added to maps of another size."""
    return {
        place: [None if each is None else each.as_subclass(FlexibleResidual) for each in maps]
        for place, maps in lists.items()
    }


class FlexibleResidual(Tensor):
    """[B, C, h, w]; `map += residual` (which is `add_`) resizes it bilinearly to the map. Results are plain tensors."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            if func is Tensor.add_ and not isinstance(args[0], cls):
                args = (args[0], _fitted(args[1], args[0]))
            return func(*args, **(kwargs or {}))


def _fitted(residual: Tensor, target: Tensor) -> Tensor:
    if residual.shape[-2:] == target.shape[-2:]:
        return residual
    _log.debug("a residual of %s is resized to %s", tuple(residual.shape), tuple(target.shape))
    return F.interpolate(residual, target.shape[-2:], mode="bilinear")
