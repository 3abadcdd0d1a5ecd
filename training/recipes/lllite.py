"""ControlLLLite: small networks beside the projections of the encoder's and the middle's attention (kohya-ss, 2023).

As `networks/control_net_lllite.py` of sd-scripts trains them: modules before the projections q, k and v of the
self-attention and q of the cross-attention, none in the decoder. Each starts from random weights with its last layer at
zero, so that the untrained control adds exactly nothing. A token must cover what the hint's convolutions reach, 8 to 32
pixels, so levels with larger tokens have no module: for SD 1.x the middle.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from ...core.errors import UnsupportedModelError
from ...core.network.attach import Locate
from ...core.network.base import LATENT
from ...core.network.points import Point
from ...models.families.lllite import FAMILY, START, STEM, STRIDES, ControlLLLite, Module
from ...models.layers import STANDARD
from ...pipelines.attached import LAYERS_KEY, WIDTHS_KEY, locate_in
from ..settings import Settings
from .recipe import Recipe

MLP, EMBEDDING = 64, 32  # sd-scripts: `network_dim` and `cond_emb_dim`; no more than half of a projection's width
PROJECTIONS = ("attn1_to_q", "attn1_to_k", "attn1_to_v", "attn2_to_q")
DEPTHS = {LATENT: 1, 2 * LATENT: 2, 4 * LATENT: 3}  # of the hint's convolutions, by the pixels of a token's side
HINT_CHANNELS = 3


class LLLiteRecipe(Recipe):
    """ControlLLLite for the U-Nets of SD and SDXL."""

    family, rate = FAMILY, 2e-4
    blocks = (Module,)

    def create(self, unet: Any, settings: Settings) -> ControlLLLite:
        shapes = dict(shape for place in _places(unet) for shape in _shapes(*place))
        network = ControlLLLite(shapes, STANDARD).to(torch.float32)
        for _, module in network.parts:
            last = module.up[-1]
            assert isinstance(last, nn.Linear)
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
        return network

    def continued(self, path: Path, unet: Any, settings: Settings) -> nn.Module:
        network = super().continued(path, unet, settings)
        assert isinstance(network, ControlLLLite)
        locate = locate_in(unet)
        for point, module in network.parts:
            found = _width(locate, point)
            if found != module.inner:
                raise UnsupportedModelError(
                    f"'{path.name}' shifts {module.inner} channels of the attention in {point.block.value} block "
                    f"{point.index}, where the base has {found or 'none'}: start from a file of this base"
                )
        return network


def _width(locate: Locate, point: Point) -> int:
    """Return the width of what a projection of the base receives; 0 where it has no attention."""
    try:
        return int(cast(Any, locate(point).module).in_features)
    except (IndexError, StopIteration, AttributeError):
        return 0


def _places(unet: Any) -> Iterator[tuple[str, int, int]]:
    """Yield (name, width, depth of the hint's convolutions) of each transformer of the encoder and the middle."""
    level = unet.config[LAYERS_KEY] + 1  # input blocks of a level; each but the last one ends with a halving
    widths = unet.config[WIDTHS_KEY]
    for i, block in enumerate(unet.down_blocks):
        for j, attention in enumerate(getattr(block, "attentions", None) or ()):
            yield from _transformers(f"input_blocks_{1 + level * i + j}", attention, widths[i], i)
    for attention in unet.mid_block.attentions:
        yield from _transformers("middle_block", attention, widths[-1], len(widths) - 1)


def _transformers(block: str, attention: Any, width: int, halvings: int) -> Iterator[tuple[str, int, int]]:
    depth = DEPTHS.get(LATENT << halvings)
    if depth is not None:
        for k in range(len(attention.transformer_blocks)):
            yield f"{START}{block}_1_transformer_blocks_{k}", width, depth


def _shapes(place: str, width: int, depth: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield the shapes that tell the sizes of the modules of one transformer."""
    mlp, embedding = min(MLP, width // 2), min(EMBEDDING, width // 2)
    strides = STRIDES[depth]
    channels = (HINT_CHANNELS, *(embedding // 2,) * (len(strides) - 1), embedding)
    for projection in PROJECTIONS:
        name = f"{place}_{projection}"
        yield f"{name}.down.0.weight", (mlp, width)
        for i, stride in enumerate(strides):
            yield f"{name}.{STEM}.{2 * i}.weight", (channels[i + 1], channels[i], stride, stride)
