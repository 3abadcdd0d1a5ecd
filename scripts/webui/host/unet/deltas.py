"""Changes to the base network's weights that touch no weight: what a difference adds to the answer of its layer.

A layer's answer is linear in its weights, so that of W + D is that of W plus that of D. WebUIs change weights while a
request is sampled: those of prompts (LoRA) keep what they find in a layer when it computes next and put that back
later, a refiner may be loaded into the same layers, and layers move between devices or are stored in 8 bits. What
somebody has written into a weight is then lost, or stays for ever. What is added beside it can do neither, has nothing
to restore, and is not rounded with the weight. It costs the layers that it concerns once more: 2 % of an evaluation for
ControlNeXt's, which are output projections.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from .....core.control import ControlModel
from .....core.errors import HostError
from .....core.network.attach import Patches, check_delta, deltas_of
from .....core.network.effects import WeightDelta
from .....core.unit import ControlUnit

Layer = Any  # nn.Module, or what a program has instead of one, with `weight` and `bias`
Answer = Callable[[Tensor], Tensor]  # what a layer is given -> what a difference adds to what it returns


class Deltas:
    """The weight deltas of a request's units on one U-Net.

    keep: leave the differences on the device between evaluations; otherwise they are copied there each time.
    """

    def __init__(self, units: Sequence[ControlUnit], unet: nn.Module, *, keep: bool = True) -> None:
        """Raise IncompatibleModelError for a weight that the U-Net lacks, HostError for a layer of an unknown kind."""
        models = {id(unit.model.delta): unit.model for unit in units if unit.model.delta is not None}
        self._unet, self._keep = unet, keep
        self._answers = {key: self._located(model) for key, model in models.items()}

    @property
    def bytes(self) -> int:
        """Return the bytes that the differences need on the device, at most (2 for each value)."""
        terms = (term for found in self._answers.values() for _, term in found)
        return 2 * sum(factor.numel() for term in terms for factor in term.factors)

    def attach(self, patches: Patches, units: Sequence[ControlUnit]) -> None:
        """Change the weights for as long as `patches` lasts, as far as these units act."""
        for _, delta, strength in deltas_of(units):
            for layer, term in self._answers[id(delta)]:
                patches.hook(layer.register_forward_hook(term.hook(strength)))

    def _located(self, model: ControlModel) -> list[tuple[nn.Module, Term]]:
        check_delta(model, {name: tuple(each.shape) for name, each in self._unet.named_parameters()})
        assert model.delta is not None
        found: list[tuple[nn.Module, Term]] = []
        for name in sorted(model.delta.names):
            path, _, parameter = name.rpartition(".")
            layer = self._unet.get_submodule(path)
            forward = _forward_of(layer, parameter, f"'{model.name}' changes '{name}'")
            found += [(layer, Term(forward, factors, self._keep)) for factors in _factors(model.delta, name)]
        return found


class Term:
    """What one difference of a weight adds to its layer's answer.

    factors: the whole difference, or two of low rank: up [out, r] and down [r, in, ...], the scale multiplied in.
    """

    def __init__(self, forward: Callable[[Tensor, Tensor], Tensor], factors: tuple[Tensor, ...], keep: bool) -> None:
        self.factors = factors
        self._forward, self._keep = forward, keep
        self._there: tuple[Tensor, ...] = ()  # the factors where they were needed last

    def hook(self, strength: float) -> Callable[[nn.Module, tuple[Any, ...], Tensor], Tensor]:
        """Return a forward hook that adds the term, times `strength`."""

        def add(_layer: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
            return output + strength * self._answer(args[0].to(output.dtype)).to(output.dtype)

        return add

    def _answer(self, x: Tensor) -> Tensor:
        factors = self._moved(x)
        if len(factors) == 1:
            return self._forward(x, factors[0])
        up, down = factors
        h = self._forward(x, down)
        return F.linear(h, up) if down.ndim == 2 else F.conv2d(h, up[:, :, None, None])

    def _moved(self, like: Tensor) -> tuple[Tensor, ...]:
        if self._there and (self._there[0].device, self._there[0].dtype) == (like.device, like.dtype):
            return self._there
        moved = tuple(factor.to(like) for factor in self.factors)
        self._there = moved if self._keep else ()
        return moved


def _factors(delta: WeightDelta, name: str) -> list[tuple[Tensor, ...]]:
    found: list[tuple[Tensor, ...]] = []
    if name in delta.tensors:
        found.append((delta.tensors[name],))
    if name in delta.low_rank:
        up, down, scale = delta.low_rank[name]
        found.append((up.float() * scale, down))
    return found


def _forward_of(layer: Layer, parameter: str, asked: str) -> Callable[[Tensor, Tensor], Tensor]:
    """Return what a layer would answer with another weight or bias alone: (input, that parameter) -> its answer."""
    maps = isinstance(layer, (nn.Conv2d, nn.GroupNorm))
    if parameter == "bias":
        return lambda _, bias: bias[:, None, None] if maps else bias
    if parameter != "weight":
        raise HostError(f"{asked}, which is neither weight nor bias of a layer: leave that control out")
    if isinstance(layer, nn.Conv2d):
        return lambda x, weight: layer._conv_forward(x, weight, None)  # knows the padding, also for seamless pictures
    if isinstance(layer, nn.GroupNorm):
        return lambda x, weight: F.group_norm(x.float(), layer.num_groups, weight.float(), None, layer.eps)
    if isinstance(layer, nn.LayerNorm):
        return lambda x, weight: F.layer_norm(x.float(), layer.normalized_shape, weight.float(), None, layer.eps)
    if layer.weight.ndim == 2 and not isinstance(layer, nn.Embedding):  # Forge's are no nn.Linear
        return F.linear
    raise HostError(
        f"{asked}, a {type(layer).__name__}, and whether that is linear is not known: leave that control out"
    )
