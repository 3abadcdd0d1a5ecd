"""What a user says about one control: `ControlUnit`, a value."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .control import ControlModel, HintSpace
from .errors import HintError, UnitError
from .modes import ControlMode, ResizeMode
from .network.points import CONDITIONS, Point
from .reuse.said import OFF, Reuse
from .schedule import Schedule


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ControlUnit:
    """What the user said about one control: a value."""

    model: ControlModel
    hint: Tensor  # [N, C, H, W] in 0..1, or an embedding [N, T, D]; N is 1, the number of pictures, or of frames
    weight: float = 1.0
    schedule: Schedule = field(default_factory=Schedule)
    mode: ControlMode = ControlMode.BALANCED
    resize: ResizeMode = ResizeMode.CROP
    mask: Tensor | None = None  # [N, 1, H, W], 1 = full effect
    block_weights: tuple[float, ...] | None = None  # one per point of the model; they replace the mode's factors
    delta_strength: float = 1.0  # of the model's changes to the weights of the base network, if it has any
    uncond_weight: float = 1.0  # factor on the rows of the negative prompt; at 0 they are not computed
    reuse: Reuse = OFF  # on which steps it adds again what it computed before
    origin: object = None  # what it was made from, for whoever writes down how a picture came about

    def __post_init__(self) -> None:
        if not math.isfinite(self.weight):
            raise UnitError(f"the unit with '{self.model.name}' has the weight {self.weight}, expected a finite number")
        if not math.isfinite(self.delta_strength):
            raise UnitError(
                f"'{self.model.name}' has the delta strength {self.delta_strength}, expected a finite number"
            )
        if not math.isfinite(self.uncond_weight):
            raise UnitError(f"'{self.model.name}' has the uncond weight {self.uncond_weight}, expected a finite number")
        self._check_options()
        self._check_hint()
        self._check_mask()
        self._check_block_weights()

    def _check_options(self) -> None:
        for each in self.model.offers:
            if each.needed and each.name not in self.model.options:
                kinds = ", ".join(word for word in each.words if word != each.default)
                raise UnitError(
                    f"'{self.model.name}' has to be told what its hint shows: set the option {each.name} to one of "
                    f"{kinds}, or choose a preprocessor of that kind"
                )

    def _check_hint(self) -> None:
        name, channels = self.model.name, self.model.hint_channels
        if self.model.hint_space is HintSpace.EMBEDDING:
            if self.hint.ndim != 3 or channels not in (0, self.hint.shape[-1]):
                what = self.model.embedding or "an embedding"
                raise HintError(
                    f"'{name}' reads {what} [N, T, {channels}], got {list(self.hint.shape)}: choose its own encoder"
                )
        elif self.hint.ndim != 4 or self.hint.shape[1] not in self._channels or 0 in self.hint.shape:
            raise HintError(f"'{name}' reads a hint [N, {channels}, H, W], got {list(self.hint.shape)}")
        if not torch.isfinite(self.hint).all():
            raise HintError(f"the hint for '{name}' holds NaN or infinite values: check the preprocessor that made it")

    @property
    def _channels(self) -> set[int]:
        """Return how many channels a hint may have: what becomes latents is a picture before."""
        return {3, self.model.hint_channels} if self.model.hint_space is HintSpace.PICTURE else {3}

    def _check_mask(self) -> None:
        mask = self.mask
        if mask is None:
            return
        if mask.ndim != 4 or mask.shape[1] != 1 or 0 in mask.shape:
            raise HintError(f"the mask of '{self.model.name}' is {list(mask.shape)}, expected [N, 1, H, W]")
        if not torch.isfinite(mask).all():
            raise HintError(f"the mask of '{self.model.name}' holds NaN or infinite values")
        if self.weight and any(point.block in CONDITIONS for point in self.model.points):
            raise HintError(
                f"'{self.model.name}' acts on the prompt, which has no place in the picture: leave its mask out"
            )

    def _check_block_weights(self) -> None:
        weights, points = self.block_weights, self.model.points
        if weights is None:
            return
        if len(weights) != len(points):
            raise UnitError(f"'{self.model.name}' has {len(points)} blocks, got {len(weights)} block weights")
        if not all(map(math.isfinite, weights)):
            raise UnitError(f"the block weights {weights} of '{self.model.name}' are not all finite numbers")

    @property
    def acts(self) -> bool:
        """Return whether it can act at all: not at weight 0, nor under a mask that is black everywhere."""
        return bool(self.weight) and (self.mask is None or bool(self.mask.any()))

    def scales(self) -> dict[Point, float]:
        """Return the factor of each point on which the unit acts, before its schedule; none if it cannot act.

        Balanced: the weight. Otherwise the model's soft weights, or the block weights, times the weight.
        """
        if not self.acts:
            return {}
        factors = self.block_weights
        if factors is None:
            balanced = self.mode is ControlMode.BALANCED
            factors = (1.0,) * len(self.model.points) if balanced else self.model.soft_weights
        scales = {point: self.weight * factor for point, factor in zip(self.model.points, factors, strict=True)}
        return {point: scale for point, scale in scales.items() if scale}
