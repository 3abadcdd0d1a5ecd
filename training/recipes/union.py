"""ControlNet-Union: one ControlNet for several kinds of hints (xinsir6/ControlNetPlus, 2024).

The copy of the base's encoder starts as a ControlNet does. The embedding of each kind is random, small, and what puts
the kinds' tokens into the stream starts at zero, as in diffusers' `ControlNetUnionModel`. A batch shows hints of one
kind, the next batch those of the next one; `--kind` names them with where their hints come from. A union may also
start from a ControlNet of the base (`--start FILE`): at first it does what that one does, whatever kind it is told.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ...core.control import ControlModel
from ...core.errors import ScheduleError
from ...models.families.controlnet.family import FAMILY as CONTROLNET
from ...models.families.controlnet.network import ControlNet
from ...models.families.union import FAMILY, UnionModel, UnionNet
from ...models.files.loading import read_header
from ...models.kinds.unions import KINDS, OPTION
from ...models.layers import STANDARD, ResBlock, TransformerBlock
from ...models.registry import identify
from ..settings import Settings
from .controlnet import ControlNetRecipe
from .copies import copy_of_encoder

SINUSOIDS, LAYERS = 256, 1  # of the published file: width of a kind's sinusoids, transformer blocks of the tokens


class UnionRecipe(ControlNetRecipe):
    """Unions that know all kinds of ProMax, of which those of `--kind` learn."""

    family, options = FAMILY, frozenset({"kinds"})
    blocks = (ResBlock, TransformerBlock)

    def create(self, unet: Any, settings: Settings) -> ControlNet:
        network = _union_of(copy_of_encoder(unet))
        self.fill_outputs(network, settings)
        return network

    def continued(self, path: Path, unet: Any, settings: Settings) -> nn.Module:
        if identify(read_header(path)) is not CONTROLNET:
            return super().continued(path, unet, settings)
        network = ControlNetRecipe().continued(path, unet, settings)
        assert isinstance(network, ControlNet)
        return _union_of(network)

    def given(self, unet: Any, settings: Settings) -> dict[str, Any]:
        return {**super().given(unet, settings), "learned": ",".join(each.kind for each in settings.kinds)}

    def model(self, network: nn.Module, unet: Any, settings: Settings) -> ControlModel:
        assert isinstance(network, UnionNet)
        return UnionModel(network, name=self.id)

    def told(self, settings: Settings, batch: int) -> Mapping[str, object]:
        return {OPTION: settings.kinds[batch % len(settings.kinds)].kind}

    def check(self, settings: Settings) -> None:
        super().check(settings)
        if not settings.kinds:
            raise ScheduleError(
                "a union learns several kinds of hints: name each with --kind, such as --kind canny=canny(low=50) "
                "--kind depth=column:depth_image"
            )


def _union_of(network: ControlNet) -> UnionNet:
    """Return a union with the weights of a ControlNet, which adds what that one adds until it has learned the kinds."""
    config = network.config
    union = UnionNet(config, len(KINDS), min(SINUSOIDS, config.channels), LAYERS, STANDARD).to(torch.float32)
    union.load_state_dict(network.state_dict(), strict=False)
    nn.init.normal_(union.task_embedding, std=config.channels**-0.5)
    for layer in (union.spatial_ch_projs, union.control_add_embedding["linear_2"]):
        for weight in layer.parameters():
            nn.init.zeros_(weight)
    return union
