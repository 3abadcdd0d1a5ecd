"""Effects on a network that is not ours but that we hold: module hooks and changed weights, all reversible.

An edge says where the points of its network are (`Locate`); no forward is replaced or copied. `Patches` is an
ExitStack: what is attached inside its `with` is undone at its end in reverse order, also after an exception or an
interrupt, and the network is then exactly what it was: no hook is left, and weights have their old bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..control import ControlModel
from ..errors import HostError, IncompatibleModelError
from ..unit import ControlUnit
from .effects import Effects, WeightDelta
from .points import Block, Part, Point


class Value(Enum):
    """Which value of a module stands at a point."""

    OUTPUT = "output"  # what it returns, or the first of what it returns
    INPUT = "input"  # its first argument
    LAST_CHANNELS = "last channels"  # of its first argument: a decoder block receives its stream and the skip as one
    TOKENS = "tokens"  # its first argument [B, ..., C], seen as [B, N, C]: some transformers keep their tokens as maps


@dataclass(frozen=True, slots=True, eq=False)
class Site:
    """Where a point is in a network; `channels` is the width of a skip.

    seen: a module that computes before it, whose output is seen in place of what stands there.
    """

    module: nn.Module
    value: Value
    channels: int = 0
    seen: nn.Module | None = None


Locate = Callable[[Point], Site]


class Handle(Protocol):
    """What PyTorch returns for a registered hook."""

    def remove(self) -> None: ...


class Patches:
    """Changes that last as long as the `with` block around them."""

    def __init__(self) -> None:
        self._stack = ExitStack()

    def __enter__(self) -> Patches:
        return self

    def __exit__(self, *_: object) -> None:
        self.eject()

    def eject(self) -> None:
        """Undo everything, newest first; calling it again does nothing."""
        self._stack.close()

    def hook(self, handle: Handle) -> None:
        """Take over a hook that was just registered, to remove it in the end."""
        self._stack.callback(handle.remove)

    def replace(self, holder: object, name: str, value: object) -> None:
        """Set an attribute; it gets its old value back in the end."""
        self._stack.callback(setattr, holder, name, getattr(holder, name))
        setattr(holder, name, value)

    def add_to_weight(self, parameter: Tensor, delta: Tensor) -> None:
        """Add `delta` to a weight in place; the old bytes are kept, for subtracting it again would round."""
        before = parameter.detach().clone()
        self._stack.callback(_copy_back, parameter, before)
        with torch.no_grad():
            wide = parameter.float() if parameter.element_size() == 1 else parameter  # torch adds nothing in 8 bits
            parameter.copy_(wide + delta.to(wide))


def attention_site(block: Any, part: Part) -> Site:
    """Return where a part of attention is in a transformer block: `attn1` and `attn2` with `to_q`, `to_k`, `to_v`."""
    name, _, value = part.value.partition(".")
    attention = getattr(block, name)
    if value == "heads":
        return Site(attention.to_out[0], Value.INPUT, seen=attention.to_q)
    return Site(attention, Value.OUTPUT) if value == "out" else Site(getattr(attention, f"to_{value}"), Value.INPUT)


def attend_with(attention: Any, x: Tensor, context: Tensor) -> Tensor:
    """Return what an attention layer would return for x [B, N, C] and a context [B, M, C], whatever hooks are on it.

    Its projections are called past their hooks, which belong to the evaluation that is going on.
    """
    q, k, v = (
        getattr(attention, name).forward(value).unflatten(-1, (attention.heads, -1)).transpose(1, 2)
        for name, value in (("to_q", x), ("to_k", context), ("to_v", context))
    )
    out = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    return attention.to_out[0].forward(out)


def attach(patches: Patches, effects: Effects, locate: Locate) -> None:
    """Make the network's next evaluation take effects: at each point the tensor is added first, then the shifts.

    Tokens and the vector condition are left to the edge, which hands both to the network.
    """
    for point, tensor in effects.tensors():
        if point.block is not Block.PROMPT:
            _change(patches, locate(point), _constant(tensor))
    attach_shifts(patches, effects, locate)


def attach_shifts(patches: Patches, effects: Effects, locate: Locate) -> None:
    """Make the network's next evaluation take the shifts alone, where the edge adds the tensors by other means."""
    for point, shift in effects.shifts.items():
        _change(patches, locate(point), shift)


def record(patches: Patches, points: Collection[Point], locate: Locate, found: dict[Point, Tensor]) -> None:
    """Write what stands at these points of the network's next evaluation into `found`."""
    for point in points:

        def keep(h: Tensor, point: Point = point) -> None:
            found[point] = h

        _change(patches, locate(point), keep)


def change_weights(patches: Patches, units: Sequence[ControlUnit], weights: Mapping[str, Tensor]) -> None:
    """Add the units' weight deltas, each times its strength, to the base network for as long as `patches` lasts.

    weights: the base U-Net's own parameters by bare ldm names. Units on one file share its delta: it is added once, at
    the first one's strength. Raises IncompatibleModelError for names or shapes that the base does not have, HostError
    for weights that are not in memory.
    """
    for model, delta, strength in deltas_of(units):
        check_delta(model, {name: tuple(weight.shape) for name, weight in weights.items()})
        for name in sorted(delta.names):
            weight = weights[name]
            if weight.device.type == "meta":
                raise HostError(
                    f"'{model.name}' changes weights of the base model, and '{name}' is not in memory: "
                    "load the base model without sequential offloading"
                )
            patches.add_to_weight(weight, delta.of(name).to(weight.device) * strength)


def deltas_of(units: Sequence[ControlUnit]) -> list[tuple[ControlModel, WeightDelta, float]]:
    """Return the weight deltas of units that can act, each once, with its model and strength."""
    found: dict[int, tuple[ControlModel, WeightDelta, float]] = {}
    for unit in units:
        delta = unit.model.delta
        if delta is not None and unit.acts and unit.delta_strength:
            found.setdefault(id(delta), (unit.model, delta, unit.delta_strength))
    return list(found.values())


def check_delta(model: ControlModel, base: Mapping[str, tuple[int, ...]]) -> None:
    """Raise IncompatibleModelError unless the base has every weight that the model changes; base: shapes by name."""
    delta = model.delta
    for name in sorted(delta.names) if delta is not None else ():
        shape = tuple(delta.shape(name)) if delta is not None else ()
        if base.get(name) != shape:
            raise IncompatibleModelError(
                f"'{model.name}' changes the weight '{name}' {list(shape)} of its base model, the loaded one has "
                f"{list(base[name]) if name in base else 'no such weight'}: load the base that it was trained with"
            )


def _change(patches: Patches, site: Site, change: Callable[[Tensor], Tensor | None]) -> None:
    """Add to a value what `change` returns for it, unless that is None."""
    hooks = {
        Value.OUTPUT: _after,
        Value.INPUT: _before,
        Value.LAST_CHANNELS: _before_channels,
        Value.TOKENS: _before_tokens,
    }
    if site.seen is not None:
        change = _of_another(patches, site.seen, change)
    patches.hook(hooks[site.value](site, change))


def _of_another(
    patches: Patches, module: nn.Module, change: Callable[[Tensor], Tensor | None]
) -> Callable[[Tensor], Tensor | None]:
    """Return the change of what a module returned last, whatever stands at the point itself."""
    last: list[Tensor] = []

    def keep(_module: nn.Module, _args: object, output: Tensor) -> None:
        last[:] = [output]

    def of_last(_: Tensor) -> Tensor | None:
        return change(last.pop())

    patches.hook(module.register_forward_hook(keep))
    return of_last


def _after(site: Site, change: Callable[[Tensor], Tensor | None]) -> Handle:
    def hook(_module: nn.Module, _args: object, output: Any) -> Any:
        h: Tensor = _first(output)
        added = change(h)
        if added is None:
            return None
        return (h + added, *output[1:]) if isinstance(output, tuple) else h + added

    return site.module.register_forward_hook(hook)


def _before(site: Site, change: Callable[[Tensor], Tensor | None]) -> Handle:
    def hook(_module: nn.Module, args: tuple[Any, ...]) -> Any:
        added = change(args[0])
        return None if added is None else (args[0] + added, *args[1:])

    return site.module.register_forward_pre_hook(hook)


def _before_channels(site: Site, change: Callable[[Tensor], Tensor | None]) -> Handle:
    def hook(_module: nn.Module, args: tuple[Any, ...]) -> None:
        part: Tensor = args[0][:, -site.channels :]
        added = change(part)
        if added is not None:  # in place: the decoder has just joined its stream and the skip into a fresh tensor
            part.add_(added)

    return site.module.register_forward_pre_hook(hook)


def _before_tokens(site: Site, change: Callable[[Tensor], Tensor | None]) -> Handle:
    def of_tokens(x: Tensor) -> Tensor | None:
        added = change(x.flatten(1, -2))
        return None if added is None else added.reshape(x.shape)

    return _before(site, of_tokens)


def _first(output: Any) -> Tensor:
    return cast("tuple[Tensor]", output)[0] if isinstance(output, tuple) else output


def _constant(tensor: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda _: tensor


def _copy_back(parameter: Tensor, before: Tensor) -> None:
    with torch.no_grad():
        parameter.copy_(before)
