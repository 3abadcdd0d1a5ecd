"""What units change in the weights of the base model, through the host's own weight hooks; and those weights.

The host registers hooks that stand on prompts before it samples, changes the weights where they lie (offloaded, in 8
bits, under the LoRAs of other nodes), and puts their old bytes back when the run ends, however it ends.

Weights of 8 bits would round a difference away. There it is added to each weight as the host casts it for a layer, by a
wrapper around the very call of the base network that a control of ours was asked for.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import comfy.hooks
import comfy.model_management
import comfy.ops
import torch
from comfy.weight_adapter.lora import LoRAAdapter
from torch import Tensor

from ...core.control import ControlModel
from ...core.errors import HostError
from ...core.network.attach import check_delta, deltas_of
from ...core.network.base import BaseWeights
from ...core.network.effects import WeightDelta
from ...core.unit import ControlUnit

PREFIX = "diffusion_model."  # of the base network's weights in the host
KINDS = ("weight", "bias")  # what the host casts, and lets others change as it does

Deltas = Mapping[int, tuple[ControlModel, WeightDelta, float]]  # by the delta's id: of whom, what, how strongly


def weight_hooks(units: Sequence[ControlUnit]) -> list[Any]:
    """Return a group with one hook for each file that changes weights; none where no unit does.

    Hooks of one file are the same to the host, also those of several Apply nodes: the first one's strength counts.
    """
    deltas = deltas_of(units)
    if not deltas:
        return []
    group = comfy.hooks.HookGroup()
    for model, delta, strength in deltas:
        group.add(_hook(model, delta, strength))
    return [group]


def in_eight_bits(units: Sequence[ControlUnit], network: torch.nn.Module) -> Deltas:
    """Return what units change in weights of 8 bits of the base network."""
    dtypes = {name: each.dtype for name, each in network.named_parameters()}
    found = ((model, delta, strength) for model, delta, strength in deltas_of(units) if _are_eight(delta, dtypes))
    return {id(delta): (model, delta, strength) for model, delta, strength in found}


def wrapper_of(deltas: Deltas, network: torch.nn.Module) -> Callable[..., Any]:
    """Return a wrapper of the base network's forward, in which its weights are changed as they are cast."""

    def changed(forward: Any, *arguments: Any, **settings: Any) -> Any:
        with _changed(deltas, network):
            return forward(*arguments, **settings)

    return changed


def base_weights(model: Any) -> BaseWeights:
    """Return the weights of the host's base model, which is loaded, as its layers compute with them.

    A layer may have its weight in few bits, on another device, or with LoRAs that are added as it is used.
    """
    network, patcher = model.diffusion_model, model.current_patcher
    device = comfy.model_management.get_torch_device()

    def read(name: str) -> Tensor | None:
        path, _, part = name.rpartition(".")
        try:
            layer = network.get_submodule(path)
        except AttributeError:
            return None
        if getattr(layer, part, None) is None:
            return None
        if not hasattr(layer, "weight_function") or part not in ("weight", "bias"):
            return getattr(layer, part)
        both = comfy.ops.cast_bias_weight(layer, dtype=torch.float32, device=device, bias_dtype=torch.float32)
        weight = both[0] if part == "weight" else both[1]
        whole = weight.dequantize() if isinstance(weight, _quantised()) else weight
        scale = getattr(layer, "scale_weight", None) if part == "weight" else None
        return whole if scale is None else whole * scale.to(whole)

    hooks = getattr(patcher, "current_hooks", None)
    return BaseWeights(read, (weakref.ref(model), getattr(patcher, "patches_uuid", None), id(hooks)))


def check_applied(units: Sequence[ControlUnit], patcher: Any, beside: Deltas) -> None:
    """Raise HostError unless the hooks of all units are on the weights now: a pack may sample without them.

    beside: what is not changed by hooks.
    """
    hooks = getattr(patcher, "current_hooks", None)
    applied = set() if hooks is None else {id(hook.hook_ref) for hook in hooks.hooks}
    for model, delta, _ in deltas_of(units):
        if id(delta) not in applied and id(delta) not in beside:
            raise HostError(
                f"'{model.name}' changes weights of the base model, and this sampler does not apply the hooks of "
                "prompts that do so: use KSampler or another sampler of the host"
            )


def _hook(model: ControlModel, delta: WeightDelta, strength: float) -> Any:
    hook = comfy.hooks.WeightHook(strength_model=strength, strength_clip=0.0)
    hook.hook_ref = delta  # what the host tells hooks apart by
    hook.need_weight_init = False  # the names are those of the host's weights
    hook.weights = {PREFIX + name: _change(delta, name) for name in sorted(delta.names)}
    hook.custom_should_register = _checking(model)
    return hook


def _change(delta: WeightDelta, name: str) -> Any:
    """Return one weight's change as the host has it: a low-rank pair where it is nothing else."""
    if name in delta.tensors:
        return ("diff", (delta.of(name),))
    up, down, scale = delta.low_rank[name]
    return LoRAAdapter(set(), (up, down, scale * len(down), None, None, None))


def _checking(model: ControlModel) -> Callable[..., bool]:
    """Return what the host asks before it registers a hook: the check of names and shapes, before any step."""

    def fits(hook: Any, patcher: Any, *_: Any) -> bool:
        weights = {name.removeprefix(PREFIX): each for name, each in patcher.model_state_dict(PREFIX).items()}
        check_delta(model, {name: tuple(each.shape) for name, each in weights.items()})
        return not _are_eight(hook.hook_ref, {name: each.dtype for name, each in weights.items()})

    return fits


def _are_eight(delta: WeightDelta, dtypes: Mapping[str, torch.dtype]) -> bool:
    """Return whether a delta changes weights of 8 bits."""
    return any(dtypes[name].itemsize == 1 for name in delta.names if name in dtypes)


@contextmanager
def _changed(deltas: Deltas, network: torch.nn.Module) -> Iterator[None]:
    """Add differences to the layers' weights as the host casts them; afterwards the layers are as they were."""
    before: list[tuple[Any, str, Any]] = []
    try:
        for model, delta, strength in deltas.values():
            for name in sorted(delta.names):
                place, _, kind = name.rpartition(".")
                layer = network.get_submodule(place)
                functions = getattr(layer, f"{kind}_function", None) if kind in KINDS else None
                if functions is None:
                    raise HostError(
                        f"'{model.name}' changes '{name}' in 8 bits, which ComfyUI does not cast: load "
                        "the base model in 16 bits"
                    )
                before.append((layer, f"{kind}_function", functions))
                setattr(layer, f"{kind}_function", [*functions, _adding(delta, name, strength)])
        yield
    finally:
        for layer, functions, old in reversed(before):
            setattr(layer, functions, old)


def _adding(delta: WeightDelta, name: str, strength: float) -> Callable[[Tensor], Tensor]:
    return lambda weight: weight + (delta.of(name) * strength).to(weight)


def _quantised() -> tuple[type, ...]:
    """Return the host's class of tensors in few bits; older hosts have none."""
    found = getattr(comfy.ops, "QuantizedTensor", None)
    return () if found is None else (found,)
