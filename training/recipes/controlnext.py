"""ControlNeXt: a small network of hint and time, and the output projections of the base's attention, trained together.

Peng et al. 2024; dvlab-research/ControlNeXt, the trainings of SD 1.5 and SDXL: the network starts from random weights,
without zero convolutions, since its answer enters the stream cross-normalised, and learns ten times the base's rate.
Of the base, SD 1.5 trains the output projections of all attention, SDXL those of the cross-attention.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn

from ...core.control import ControlModel, Prepared
from ...core.step import Step
from ...models.families.controlnext import FAMILY, ControlNeXt, ControlNeXtModel, Place, TimedBlock
from ...models.layers import STANDARD
from ...pipelines.attached import WIDTHS_KEY
from ..settings import Settings
from .recipe import Recipe

STANDARD_WIDTH, LEAST = 320, 1 / 4  # of the base's first level; a narrower base gets a narrower network
TIME, EMBEDDING = 128, 256  # widths of the sinusoids and of the time embedding
HINT_CHANNELS = 3
STEM = ((64, HINT_CHANNELS), (64, 64), (128, 64))  # (out, in) of the convolutions that read the hint
STAGES = ((128, 128), (256, 128))  # of the residual blocks, each before a halving
PROJECTION, OF_PROMPT = ".to_out.", ".attn2."  # in the names of the base's weights
TEXT_TIME = "text_time"  # what diffusers calls SDXL's conditions


class ControlNeXtRecipe(Recipe):
    """The networks for SD 1.5 and SDXL."""

    family = FAMILY
    rate, base_share = 1e-4, 0.1
    blocks = (TimedBlock,)

    def create(self, unet: Any, settings: Settings) -> ControlNeXt:
        first = unet.config[WIDTHS_KEY][0]
        share = max(LEAST, min(1.0, first / STANDARD_WIDTH))

        def narrowed(*widths: int) -> tuple[int, ...]:
            return tuple(HINT_CHANNELS if width == HINT_CHANNELS else int(width * share) for width in widths)

        shapes: dict[str, tuple[int, ...]] = {
            "time_embedding.linear_1.weight": narrowed(EMBEDDING, TIME),
            **{f"embedding.{3 * i}.weight": (*narrowed(*widths), 3, 3) for i, widths in enumerate(STEM)},
            **{f"down_res.{i}.conv1.weight": (*narrowed(*widths), 3, 3) for i, widths in enumerate(STAGES)},
            "mid_convs.1.weight": (first, *narrowed(STAGES[-1][0]), 1, 1),
        }
        return ControlNeXt(shapes, STANDARD).to(torch.float32)

    def model(self, network: nn.Module, unet: Any, settings: Settings) -> ControlModel:
        assert isinstance(network, ControlNeXt)
        return Unremembered(network, name=self.id, place=Place.MIDDLE if network.old else place_in(unet))

    def given(self, unet: Any, settings: Settings) -> dict[str, Any]:
        return {"base": place_in(unet).value, "companion_holds": "increments"}

    def unlocked(self, unet: Any, settings: Settings) -> Collection[str]:
        named = [name for name, _ in unet.named_parameters() if PROJECTION in name]
        return [name for name in named if OF_PROMPT in name] if place_in(unet) is Place.FIRST else named


class Unremembered(ControlNeXtModel):
    """A ControlNeXt that changes from step to step, so no answer of it is remembered."""

    def prepare(self, hint: Tensor) -> Prepared:
        """Compute what does not depend on the time: hint [B, 3, 8h, 8w] -> [B, C, 4h, 4w]."""
        return (self.network.stem(hint.to(self.dtype)),)

    def controls(self, step: Step, prepared: Prepared, size: tuple[int, int]) -> Tensor:
        """Return the controls [B, C, *size] of the hints at the rows' times, with their gradients."""
        return self.made(prepared[0], step.timestep, size)


def place_in(unet: Any) -> Place:
    """Return where a network enters a base: SDXL, which has conditions beside the prompt, at its first convolution."""
    return Place.FIRST if unet.config["addition_embed_type"] == TEXT_TIME else Place.HALVED
