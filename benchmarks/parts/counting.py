"""What is counted on the meta device, which computes nothing: the same numbers on every machine."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from typing import Any

import torch
from controlstack.core.control import Prepared, Prompt
from controlstack.core.network.points import Point
from controlstack.core.network.rows import Twins
from controlstack.core.step import Step
from controlstack.core.unit import ControlUnit
from controlstack.models.families.controlnet.model import ControlNetModel
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
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


class MetaUnit(ControlUnit):
    """A unit on the meta device, where no value can be checked."""

    def __post_init__(self) -> None:
        """Check nothing."""

    @property
    def acts(self) -> bool:
        """Act wherever the weight is not 0."""
        return bool(self.weight)


class MetaModel(ControlNetModel):
    """A ControlNet on the meta device, where no values can be compared: rows of one picture are the same there."""

    def __call__(
        self, step: Step, prepared: Prepared, prompt: Prompt, points: Collection[Point]
    ) -> Iterator[tuple[Point, Tensor]]:
        return super().__call__(replace(step, twins=lambda: Twins.of(step.pictures or ())), prepared, prompt, points)


class CountOperations(TorchDispatchMode):
    """Counts every tensor operation."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


class CountBytes(TorchDispatchMode):
    """Follows every tensor that is made, and knows the largest sum of bytes that were alive at once."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._alive: dict[int, tuple[int, int]] = {}  # storage -> (bytes, tensors that show it)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and not any(leaf is arg for arg in args):
                self._follow(leaf)
        return result

    def _follow(self, tensor: Tensor) -> None:
        key = tensor.untyped_storage()._cdata
        size, shown = self._alive.get(key, (tensor.untyped_storage().nbytes(), 0))
        self._alive[key] = (size, shown + 1)
        self.peak = max(self.peak, sum(size for size, _ in self._alive.values()))
        weakref.finalize(tensor, self._release, key)

    def _release(self, key: int) -> None:
        size, shown = self._alive.pop(key)
        if shown > 1:
            self._alive[key] = (size, shown - 1)
