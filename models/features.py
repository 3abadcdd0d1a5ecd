"""Control models whose network reads the hint once and gives one tensor for each of its points."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..core.control import ControlModel, Prepared, Prompt
from ..core.network.base import Base
from ..core.network.points import Point
from ..core.step import Step


class FeatureModel(ControlModel):
    """What depends neither on the latents nor on the step: all work is done in `prepare`, once for a hint.

    network: hint [N, C, H, W] -> a tuple of tensors, one for each point. dtype: what it computes in, None is that of
    its weights.
    """

    network: Any  # its call is typed by the network's own class

    def __init__(
        self,
        network: nn.Module,
        *,
        name: str,
        base: Base,
        points: tuple[Point, ...],
        soft_weights: tuple[float, ...] | None = None,
        hint_channels: int = 3,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Show a network to the stack. soft_weights: one for each point; None is 1 for all."""
        self.network, self.name, self.base, self.points = network, name, base, points
        self.soft_weights = (1.0,) * len(points) if soft_weights is None else soft_weights
        self.hint_channels = hint_channels
        self.dtype = next(network.parameters()).dtype if dtype is None else dtype

    def prepare(self, hint: Tensor) -> Prepared:
        """Compute the tensors of all points: hint [N, C, H, W] -> each [N, ...]."""
        return self.network(hint.to(self.dtype))

    def __call__(
        self, step: Step, prepared: Prepared, prompt: Prompt, points: Collection[Point]
    ) -> Iterator[tuple[Point, Tensor]]:
        """Yield the tensors of the wanted points."""
        yield from ((point, each) for point, each in zip(self.points, prepared, strict=True) if point in points)
