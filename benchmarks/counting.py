"""FLOPs of a call on the meta device, which computes nothing: the same numbers on every machine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

SAME_SHAPE = frozenset(
    {functional.layer_norm, functional.group_norm, functional.silu, functional.gelu, functional.dropout}
)


class ShapesOnly(TorchFunctionMode):
    """Skips what torch counts no FLOPs for and works out shapes of slowly: half of the time goes there.

    Norms and activations give back their input, a bias is not added, and attention is its two products.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in SAME_SHAPE:
            return args[0] if args else kwargs["input"]
        if func is functional.linear:
            return args[0] @ args[1].mT
        if func is functional.scaled_dot_product_attention:
            query, key, value = args[:3] if args else (kwargs[name] for name in ("query", "key", "value"))
            return query @ key.mT @ value
        return func(*args, **(kwargs or {}))


def flops(run: Callable[[], object]) -> int:
    """Return the FLOPs of a call on the meta device, without gradients."""
    with torch.no_grad(), ShapesOnly(), FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()
