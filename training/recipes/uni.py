"""Uni-ControlNet: one local adapter for several kinds of hints (Zhao et al., NeurIPS 2023).

The adapter starts as a copy of the base's encoder, as in the authors' program: what puts the hints' maps into its
normalisations and what leaves it starts at zero. There the factors and summands of those normalisations start at
random; here they start as the base's own, so that the copy is one. A batch shows hints of one kind, the next batch
those of the next one, where the authors mix the kinds of an example by chance. The file has no global adapter.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from ...core.control import ControlModel
from ...core.options import Option
from ...models.families.controlnet.network import ControlNet
from ...models.families.uni.family import FAMILY, LOCAL
from ...models.families.uni.model import COLOURS, UniModel
from ...models.families.uni.network import GAMMA, LEVELS, STEM, ModulatedBlock, UniNet
from ...models.kinds.unis import NAMES, offers
from ...models.layers import STANDARD
from ...pipelines.attached import LAYERS_KEY, WIDTHS_KEY
from ..settings import Settings
from .copies import copy_of_encoder, settings_of
from .recipe import Recipe, fill_zero_convolutions
from .union import UnionRecipe

# Channels of the published adapter, of which narrower bases get fewer: of the first convolutions, and of the maps.
STEM_WIDTHS, LEVEL_WIDTHS = (32, 64, 64, 128, 128), (192, 256, 384, 512)
PUBLISHED, LEAST = 320, 16  # width of its base; fewest channels


class UniRecipe(UnionRecipe):
    """Local adapters, whose hints are named as a union's are."""

    family = FAMILY

    @property
    def kinds(self) -> Option:
        """Return the option without the content of a picture, which the global adapter reads."""
        return offers(content=False)[0]

    def create(self, unet: Any, settings: Settings) -> UniNet:
        network = _adapter_of(copy_of_encoder(unet), unet)
        outputs = (network.zero_convs, network.middle_block_out, network.feature_extractor.zero_convs)
        fill_zero_convolutions([each for part in outputs for each in part.modules()], settings.start)
        return network

    def continued(self, path: Path, unet: Any, settings: Settings) -> nn.Module:
        return Recipe.continued(self, path, unet, settings)

    def given(self, unet: Any, settings: Settings) -> dict[str, Any]:
        return dict(settings_of(unet))

    def model(self, network: nn.Module, unet: Any, settings: Settings) -> ControlModel:
        assert isinstance(network, UniNet)
        return UniModel(network, name=self.id)

    def state(self, network: nn.Module) -> Mapping[str, Tensor]:
        return {LOCAL + name: each for name, each in network.state_dict().items()}


@torch.no_grad()
def _adapter_of(copy: ControlNet, unet: Any) -> UniNet:
    """Return a local adapter that computes what a copy of the base's encoder does, whatever its hints are."""
    network, own = UniNet(copy.config, dict(_shapes(unet)), STANDARD), copy.state_dict()
    network.load_state_dict(own, strict=False)
    for index in network.modulated:
        block = cast(ModulatedBlock, cast(nn.ModuleList, network.input_blocks[index])[0])
        for norm, name in ((block.norm_in, "in_layers.0"), (block.norm_out, "out_layers.0")):
            norm.conv_gamma.bias.copy_(own[f"input_blocks.{index}.0.{name}.weight"] - 1)
            norm.conv_beta.bias.copy_(own[f"input_blocks.{index}.0.{name}.bias"])
    return network.to(torch.float32)


def _shapes(unet: Any) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield the shapes that tell the sizes of the extractor, and which block of each level is modulated: its first."""
    widths, layers = unet.config[WIDTHS_KEY], unet.config[LAYERS_KEY]

    def narrowed(channels: tuple[int, ...]) -> list[int]:
        return [max(LEAST, each * widths[0] // PUBLISHED) for each in channels]

    stem, levels = narrowed(STEM_WIDTHS), narrowed(LEVEL_WIDTHS[: len(widths)])
    for number, (width, out) in enumerate(pairwise((len(NAMES) * COLOURS, *stem))):
        yield f"{STEM}{2 * number}.weight", (out, width)
    for number, (width, out) in enumerate(pairwise((stem[-1], *levels))):
        yield f"{LEVELS}{number}.0.weight", (out, width)
        yield f"input_blocks.{1 + number * (layers + 1)}.0.{GAMMA}", (0, out)
