"""A ControlNet as the stack sees it: where it acts, what it reads, and what it adds."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from ....core.control import ControlModel, Prepared, Prompt
from ....core.network.base import Base
from ....core.network.points import MIDDLE, Point
from ....core.options import Option
from ....core.step import Step
from ...beside import BesideOps, put_beside
from .network import ControlNet, points_of, shallow_of

SOFT_BASE = 0.825  # guess mode, lllyasviel/ControlNet gradio_canny2image.py: strength * 0.825 ** (12 - i)
SOFT_LENGTH = 13  # the list belongs to SD 1.x; for SDXL sd-webui-controlnet cuts it to 10, and users rely on that
LIGHT = 2**22  # weights up to which networks are faster in one call: docs/performance.md
CONTEXT = Option(  # InstantID's ControlNet has the names and shapes of any other for SDXL
    name="context",
    label="Context",
    meaning="what it reads beside the hint: the prompt, or the tokens of the unit with InstantID's adapter (face)",
    default="prompt",
    words={"prompt": (), "face": ("Instant-ID",)},
    of_hint=True,
)


class ControlNetModel(ControlModel):
    """A ControlNet as the stack sees it.

    pool: average each residual over the picture, so that it carries no position ("shuffle", ControlNet 1.1).
    bgr: the network was trained on hints with red and blue swapped.
    cond_only: act on the cond rows in every mode, as sd-webui-controlnet does for pooled models.
    """

    def __init__(
        self,
        network: ControlNet,
        *,
        name: str,
        pool: bool = False,
        cond_only: bool | None = None,
        bgr: bool = False,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.network = network
        self.bgr = bgr
        self.name = name
        self.pool = pool
        self.cond_only = pool if cond_only is None else cond_only
        self.dtype = next(network.parameters()).dtype if dtype is None else dtype
        config = network.config
        widths = (config.channels, *(block.channels for block in config.blocks))
        self.base = Base(context=config.context, label=config.label or 0, blocks=widths)
        self.points = (MIDDLE,) if config.only_middle else points_of(config)
        self.shallow = () if config.only_middle else shallow_of(config)
        self.soft_weights = (1.0,) if config.only_middle else _soft_weights(len(self.points))
        self.hint_channels = config.hint_channels

    def bind(self, options: Mapping[str, object]) -> ControlModel:
        """Return the same told these options."""
        bound = super().bind(options)
        bound.reads_tokens = CONTEXT.name in bound.options
        return bound

    @property
    def shape(self) -> Hashable:
        """Return what light ControlNets have in common that the same layers can compute for, else None."""
        weights = list(self.network.parameters())
        light = sum(each.numel() for each in weights) <= LIGHT
        if type(self.network) is not ControlNet or self.follows or self.options or not light:
            return None
        return self.network.config, self.pool, self.dtype, frozenset((each.dtype, each.device) for each in weights)

    def joined(self, others: Sequence[ControlModel]) -> ControlModel:
        """Return a ControlNet whose layers compute for this one and others."""
        with torch.device("meta"):
            network = ControlNet(self.network.config, BesideOps())
        put_beside([self.network, *(other.network for other in others)], network)
        name = " and ".join([self.name, *(other.name for other in others)])
        return ControlNetModel(network, name=name, pool=self.pool, dtype=self.dtype)

    def prepare(self, hint: Tensor) -> Prepared:
        """Compute the features [N, channels, h, w] of a hint [N, hint_channels, 8h, 8w]."""
        hint = hint.flip(1) if self.bgr else hint
        return (self.network.input_hint_block(hint.to(self.dtype)),)

    def encode(self, context: Tensor) -> Prompt:
        """Project the context [B, T, D] to keys and values of every transformer block; nothing where there is none."""
        return () if self.network.config.context is None else self.network.project(context.to(self.dtype))

    def __call__(
        self, step: Step, prepared: Prepared, prompt: Prompt, points: Collection[Point]
    ) -> Iterator[tuple[Point, Tensor]]:
        """Yield the residual [B, C, h', w'] of each wanted skip, then that of the middle."""
        x = step.x[:, : self.network.config.latent_channels].to(self.dtype)  # inpainting bases have more channels
        y = None if step.y is None else step.y.to(self.dtype)
        twins = step.twins() if y is None else None  # the vectors of uncond and cond differ from the first block on
        for point, residual in self.network.residuals(x, step.timestep, prepared, prompt, y, points, twins):
            yield point, residual.mean((2, 3), keepdim=True).expand_as(residual) if self.pool else residual
            del residual  # free before the next one is computed


def _soft_weights(count: int) -> tuple[float, ...]:
    return tuple(SOFT_BASE ** (SOFT_LENGTH - 1 - i) for i in range(count))
