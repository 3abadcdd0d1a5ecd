"""Control-LoRA: a ControlNet whose encoder is the base model's, changed by matrices of low rank.

Stability AI, "Control-LoRA", 2023. The file holds the hint encoder, the zero convolutions and the biases whole, and for
the weights of the encoder's layers two factors each, so that with the weights of the base model

    W = W_base + up @ down        up [out, r], down [r, in * k * k]

and everything else is the base model's own. It is merged once, into the one ControlNet that it then is, and again when
the base model or a LoRA of it has changed.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from math import prod
from typing import TypeVar

import torch
from torch import Tensor

from ...core.errors import IncompatibleModelError
from ...core.network.base import Base, BaseWeights
from ..family import Family, Shapes, shapes_of
from ..layers import Kit
from .controlnet.config import FIRST, ControlNetConfig, ControlNetSettings, base_of
from .controlnet.model import ControlNetModel
from .controlnet.network import ControlNet

T = TypeVar("T")

MARK = "lora_controlnet"  # a name of the file without a value that matters
UP, DOWN, WEIGHT = ".up", ".down", ".weight"
SECOND = "middle_block.2."  # the second residual block of the middle
OWN = ("input_hint_block.", "zero_convs.", "middle_block_out.")  # what no base model has


class ControlLora(ControlNet):
    """A ControlNet that waits for weights of its base model.

    low_rank: the factors of a weight by its name. given: names of the weights that are whole in the file. followed: the
    key of the base weights that it holds.
    """

    low_rank: Mapping[str, tuple[Tensor, Tensor]] = {}
    given: frozenset[str] = frozenset()
    followed: Hashable = None


class ControlLoraModel(ControlNetModel):
    """A Control-LoRA as the stack sees it."""

    follows = True

    def __init__(self, network: ControlLora, *, name: str, bgr: bool = False, dtype: torch.dtype | None = None) -> None:
        super().__init__(network, name=name, bgr=bgr, dtype=dtype)
        self._lora = network

    @property
    def followed(self) -> Hashable:
        return self._lora.followed

    @torch.no_grad()
    def follow(self, base: BaseWeights) -> bool:
        """Merge the factors into the base model's weights; return whether that was to be done.

        IncompatibleModelError where the base model lacks a weight, or has it in another shape.
        """
        if base.key == self._lora.followed:
            return False
        self._lora.followed = None  # an error leaves it half done
        for name, parameter in self._lora.named_parameters():
            if name not in self._lora.given:
                parameter.copy_(self._merged(name, parameter, base.read(name)))
        self._lora.followed = base.key
        return True

    def _merged(self, name: str, parameter: Tensor, weight: Tensor | None) -> Tensor:
        if weight is not None and name == FIRST:
            weight = weight[:, : parameter.shape[1]]  # bases for inpainting read more than latents
        if weight is None or weight.shape != parameter.shape:
            there = "no such weight" if weight is None else list(weight.shape)
            raise IncompatibleModelError(
                f"'{self.name}' is a Control-LoRA for {self.base.name} and changes the weight '{name}' "
                f"{list(parameter.shape)}, the loaded base model has {there}: load the base that it was made for"
            )
        whole = weight.to(parameter.device, torch.float32)
        if name not in self._lora.low_rank:
            return whole
        up, down = (each.to(parameter.device, torch.float32).flatten(1) for each in self._lora.low_rank[name])
        return whole + (up @ down).reshape(whole.shape)


class ControlLoraFamily(Family[ControlLora, ControlNetSettings]):
    """Control-LoRAs of any rank, in Stability's names."""

    id, title, settings = "control-lora", "Control-LoRA", ControlNetSettings
    bases, paper = "SD 1.x, SDXL", "Stability AI, 2023"

    def detect(self, shapes: Shapes) -> bool:
        return MARK in shapes and "input_hint_block.0.weight" in shapes

    def rename(self, named: Mapping[str, T]) -> dict[str, T]:
        return {name: each for name, each in named.items() if name != MARK}

    def unsaid(self) -> ControlNetSettings:
        return ControlNetSettings(heads=1, norm_groups=1)

    def base(self, shapes: Shapes) -> Base:
        return base_of(_whole(shapes))

    def create(self, shapes: Shapes, settings: ControlNetSettings, kit: Kit) -> ControlLora:
        return ControlLora(ControlNetConfig.from_shapes(_whole(shapes), settings), kit.ops, kit.attention)

    def in_file(self, network: ControlLora, shapes: Shapes) -> Shapes:
        """Return the factors of each weight that has some, and what is whole."""
        found: dict[str, tuple[int, ...]] = {}
        for name, shape in shapes_of(network.state_dict()).items():
            stem = name.removesuffix(WEIGHT)
            if name.endswith(WEIGHT) and (stem + UP in shapes or stem + DOWN in shapes):
                found |= _factors(stem, shape, shapes)
            elif name in shapes or name.startswith(OWN):
                found[name] = shape
        return found

    def fill(self, network: ControlLora, weights: Mapping[str, Tensor]) -> None:
        """Put in what the file holds; what waits for the base model is 0."""
        stems = [name.removesuffix(UP) for name in weights if name.endswith(UP)]
        network.low_rank = {stem + WEIGHT: (weights[stem + UP], weights[stem + DOWN]) for stem in stems}
        state = {name: each for name, each in weights.items() if not name.endswith((UP, DOWN))}
        network.given = frozenset(state)
        dtype = weights["input_hint_block.0.weight"].dtype
        waiting = {name: shape for name, shape in shapes_of(network.state_dict()).items() if name not in state}
        state |= {name: torch.zeros(shape, dtype=dtype) for name, shape in waiting.items()}
        super().fill(network, state)

    def wrap(
        self, network: ControlLora, name: str, settings: ControlNetSettings, dtype: torch.dtype | None
    ) -> ControlLoraModel:
        return ControlLoraModel(network, name=name, bgr=settings.hint_order == "bgr", dtype=dtype)


FAMILY = ControlLoraFamily()


def _whole(shapes: Shapes) -> Shapes:
    """Return the shapes of the ControlNet that a file becomes: those of the factors' products among them."""
    whole = {name: shape for name, shape in shapes.items() if not name.endswith((UP, DOWN))}
    for name, up in shapes.items():
        down = shapes.get(name.removesuffix(UP) + DOWN) if name.endswith(UP) else None
        if down is not None:
            whole[name.removesuffix(UP) + WEIGHT] = (*up[:1], *down[1:])
    if any(name.startswith(SECOND) for name in shapes):
        whole.setdefault(SECOND + "in_layers.0.weight", ())  # by which it is told, and which may be the base model's
    return whole


def _factors(stem: str, whole: tuple[int, ...], shapes: Shapes) -> Shapes:
    """Return the shapes that the factors of a weight must have: those of the file, if their product fits."""
    up, down = shapes.get(stem + UP, ()), shapes.get(stem + DOWN, ())
    rank = down[0] if down else up[1] if len(up) > 1 else 1
    fits = up[:2] == (whole[0], rank) and prod(up) == whole[0] * rank and prod(down) == rank * prod(whole[1:])
    return {stem + UP: up if fits else (whole[0], rank), stem + DOWN: down if fits else (rank, *whole[1:])}
