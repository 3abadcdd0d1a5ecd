"""ControlNet: a trainable copy of the U-Net's encoder whose outputs pass zero convolutions into the skips.

Zhang, Rao and Agrawala, "Adding Conditional Control to Text-to-Image Diffusion Models", ICCV 2023, section 3. For SD
1.x, SD 2.x and SDXL, including the SDXL variants with fewer or no transformer blocks. The parameter names are those of
lllyasviel/ControlNet (`cldm/cldm.py`); every width is read from the shapes of a file.

    h_0 = conv_in(x) + E(hint)        E does not depend on the step, so it is a separate call
    h_i = block_i(h_(i-1))            residual of skip i: zero_conv_i(h_i)
    middle(h_n)                       residual of the middle: zero_conv(middle(h_n))
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn

from ....core.control import Prepared, Prompt
from ....core.network.points import MIDDLE, Point, skip
from ....core.network.rows import Twins
from ...layers import (
    TORCH_OPS,
    Attention,
    Downsample,
    Kit,
    Ops,
    ResBlock,
    Rows,
    SpatialTransformer,
    as_it_is,
    attend,
    timestep_embedding,
)
from .config import Block, ControlNetConfig


class ControlNet(nn.Module):
    """The network, with bare ldm parameter names."""

    def __init__(self, config: ControlNetConfig, ops: Ops = TORCH_OPS, attention: Attention = attend) -> None:
        super().__init__()
        self.config = config
        kit, emb = Kit(ops, attention, config.groups), config.channels * 4
        self.time_embed = nn.Sequential(ops.Linear(config.channels, emb), nn.SiLU(), ops.Linear(emb, emb))
        if config.label is not None:
            label = nn.Sequential(ops.Linear(config.label, emb), nn.SiLU(), ops.Linear(emb, emb))
            self.label_emb = nn.Sequential(label)
        self.input_hint_block = hint_encoder((config.hint_channels, *config.hint_stem, config.channels), ops)
        self.input_blocks = nn.ModuleList(_input_blocks(config, kit))
        self.middle_block = nn.ModuleList(_middle(config, kit))
        widths = (config.channels, *(block.channels for block in config.blocks))
        self.zero_convs = nn.ModuleList(nn.Sequential(ops.Conv2d(width, width, 1)) for width in widths)
        self.middle_block_out = nn.Sequential(ops.Conv2d(widths[-1], widths[-1], 1))

    def project(self, context: Tensor) -> Prompt:
        """Project the prompt [B, T, D] to keys and values for every transformer block in turn; each [B, T, width]."""
        layers = (layer for block in (*self.input_blocks, self.middle_block) for layer in cast(nn.ModuleList, block))
        return tuple(kv for layer in layers if isinstance(layer, SpatialTransformer) for kv in layer.project(context))

    def residuals(
        self,
        x: Tensor,
        timestep: Tensor,
        hint: Prepared,
        prompt: Prompt,
        y: Tensor | None,
        points: Collection[Point],
        twins: Twins | None = None,
    ) -> Iterator[tuple[Point, Tensor]]:
        """Compute block by block and yield the wanted residuals; blocks below the last wanted one never run.

        x [B, C, h, w], timestep [B], hint: what it became, each [1 or B, ...], first its features [.., channels, h, w],
        y [B, label]. twins: rows with the same x, timestep, hint and y; they are one row until the prompt sets them
        apart.
        """
        widen = as_it_is
        if twins is not None:
            x, timestep, widen = twins.narrow(x), twins.narrow(timestep), twins.widen
            hint, y = tuple(map(twins.narrow, hint)), None if y is None else twins.narrow(y)
        emb = self.embed(timestep, y, hint, x.dtype)
        left, keys_and_values, h = len(points), iter(prompt), x
        for i in range(len(self.input_blocks)):
            h = self.first(h, hint) if i == 0 else self.block(i, h, hint, emb, keys_and_values, widen)
            if (point := skip(i)) in points:
                yield point, widen(self.zero_convs[i](h))
                left -= 1
            if not left:
                return
        h = run_block(self.middle_block, h, emb, keys_and_values, widen)
        yield MIDDLE, widen(self.middle_block_out(h))

    def forward(
        self, x: Tensor, timestep: Tensor, hint: Tensor, context: Tensor, y: Tensor | None = None
    ) -> list[Tensor]:
        """Return all residuals in one list, the middle last, for training: hint [B, 3, 8h, 8w]."""
        features, prompt = self.input_hint_block(hint), self.project(context)
        points = points_of(self.config)
        return [residual for _, residual in self.residuals(x, timestep, (features,), prompt, y, points)]

    def first(self, x: Tensor, hint: Prepared) -> Tensor:
        """Return what the first block makes of latents x [B, C, h, w] and of what the hint became."""
        return cast(nn.ModuleList, self.input_blocks[0])[0](x) + hint[0]

    def block(
        self, index: int, h: Tensor, hint: Prepared, emb: Tensor, prompt: Iterator[Tensor], widen: Rows
    ) -> Tensor:
        """Return what a later input block makes of h [B, C, h, w]; see `run_block`."""
        return run_block(self.input_blocks[index], h, emb, prompt, widen)

    def embed(self, timestep: Tensor, y: Tensor | None, hint: Prepared, dtype: torch.dtype) -> Tensor:
        """Return what is known beside the maps, [B, 4 channels]: of the time, and of y."""
        emb = self.time_embed(timestep_embedding(timestep, self.config.channels).to(dtype))
        return emb if self.config.label is None else emb + self.label_emb(y)


def points_of(config: ControlNetConfig) -> tuple[Point, ...]:
    return (*(skip(i) for i in range(len(config.blocks) + 1)), MIDDLE)


def shallow_of(config: ControlNetConfig) -> tuple[Point, ...]:
    """Return the points at the latents' full and half size; none where nothing is smaller."""
    halvings = [i for i, block in enumerate(config.blocks) if block.down]
    return tuple(skip(i) for i in range(halvings[1] + 1)) if len(halvings) > 1 else ()


def run_block(block: nn.Module, h: Tensor, emb: Tensor, prompt: Iterator[Tensor], widen: Rows = as_it_is) -> Tensor:
    """Return what the layers of a block make of h [B, C, h, w]; prompt: yields keys and values of its transformers."""
    for layer in cast(nn.ModuleList, block):
        if isinstance(layer, ResBlock):
            h = layer(h, emb if len(h) == len(emb) else widen(emb))
        elif isinstance(layer, SpatialTransformer):
            h = layer(h, prompt, widen)
        else:
            h = layer(h)
    return h


def hint_encoder(widths: tuple[int, ...], ops: Ops) -> nn.Sequential:
    """Build 3x3 convolutions with SiLU between them; every second one after the first pair halves the size.

    widths: channels of the hint, then of what each convolution gives.
    """
    layers: list[nn.Module] = []
    for i, (width, out) in enumerate(pairwise(widths)):
        halves = i > 0 and i % 2 == 0 and i < len(widths) - 2
        layers += [ops.Conv2d(width, out, 3, padding=1, stride=2 if halves else 1), nn.SiLU()]
    return nn.Sequential(*layers[:-1])


def _input_blocks(config: ControlNetConfig, kit: Kit) -> Iterator[nn.ModuleList]:
    yield nn.ModuleList([kit.ops.Conv2d(config.latent_channels, config.channels, 3, padding=1)])
    width = config.channels
    for block in config.blocks:
        yield nn.ModuleList([Downsample(width, kit)] if block.down else _layers(config, width, block, kit))
        width = block.channels


def _middle(config: ControlNetConfig, kit: Kit) -> list[nn.Module]:
    width = config.blocks[-1].channels
    layers = _layers(config, width, Block(width, config.middle_depth), kit)
    return layers + (_layers(config, width, Block(width), kit) if config.middle_second else [])


def _layers(config: ControlNetConfig, width: int, block: Block, kit: Kit) -> list[nn.Module]:
    layers: list[nn.Module] = [ResBlock(width, block.channels, config.channels * 4, kit)]
    if block.depth:
        heads, context = config.heads_of(block.channels), cast(int, config.context)
        layers.append(SpatialTransformer(block.channels, context, block.depth, heads, config.linear, kit))
    return layers
