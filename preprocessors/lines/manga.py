"""The network that finds structural lines in manga, ink without screens and hatching.

No package carries it, so it is built here; names of layers are those of its weights. A U of residual blocks that are
activated before each convolution. Source: Li, Liu, Wong: Deep extraction of manga structural lines, 2017.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

WIDTHS = (24, 48, 96, 192, 384)  # channels at full size, a half, a quarter, ...
DEPTHS = (2, 3, 5, 7, 12)  # blocks at each size
LAST = 16  # channels of the last blocks
CELL = 2 ** (len(WIDTHS) - 1)  # pixels; its sides must be multiples
SLOPE, EPSILON = 0.2, 1e-3


class MangaLines(nn.Module):
    """Grey pictures [B, 1, H, W], 0 to 255 -> black lines on white, 0 to 255 and a little beyond."""

    def __init__(self) -> None:
        super().__init__()
        self.block0 = _stage(1, WIDTHS[0], DEPTHS[0])
        self.block1 = _stage(WIDTHS[0], WIDTHS[1], DEPTHS[1], shrink=True)
        self.block2 = _stage(WIDTHS[1], WIDTHS[2], DEPTHS[2], shrink=True)
        self.block3 = _stage(WIDTHS[2], WIDTHS[3], DEPTHS[3], shrink=True)
        self.block4 = _stage(WIDTHS[3], WIDTHS[4], DEPTHS[4], shrink=True)
        self.block5 = _stage(WIDTHS[4], WIDTHS[3], DEPTHS[3], grow=True)
        self.block6 = _stage(WIDTHS[3], WIDTHS[2], DEPTHS[2], grow=True)
        self.block7 = _stage(WIDTHS[2], WIDTHS[1], DEPTHS[1], grow=True)
        self.block8 = _stage(WIDTHS[1], WIDTHS[0], DEPTHS[0], grow=True)
        self.block9 = _stage(WIDTHS[0], LAST, 2)
        self.conv15 = _Chain(_activated(LAST, 1, size=1))

    def forward(self, picture: Tensor) -> Tensor:
        full: Tensor = self.block0(picture)
        half: Tensor = self.block1(full)
        quarter: Tensor = self.block2(half)
        eighth: Tensor = self.block3(quarter)
        x: Tensor = eighth + self.block5(self.block4(eighth))
        x = quarter + self.block6(x)
        x = half + self.block7(x)
        x = full + self.block8(x)
        return self.conv15(self.block9(x))


class _Chain(nn.Module):
    """Layers one after the other, under the name that the weights have for them."""

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.model = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


class _Block(nn.Module):
    """Two convolutions beside a shortcut, which is a convolution where channels or size change."""

    def __init__(self, channels: int, result: int, stride: int = 1, *, grow: bool = False) -> None:
        super().__init__()
        self.conv1 = _Chain([*_activated(channels, result, stride=stride), *_enlarging(grow)])
        self.residual = _Chain(_activated(result, result))
        plain = channels == result and stride == 1
        direct = [] if plain else [nn.Conv2d(channels, result, 1, stride=stride), *_enlarging(grow)]
        self.shortcut = _Chain(direct)

    def forward(self, x: Tensor) -> Tensor:
        return torch.add(self.shortcut(x), self.residual(self.conv1(x)))


def _stage(channels: int, result: int, depth: int, *, shrink: bool = False, grow: bool = False) -> _Chain:
    """Return the blocks of one size; the first sets the number of channels (and enlarges), the last may halve it."""
    blocks = [_Block(channels, result, grow=grow)]
    blocks += [_Block(result, result, 2 if shrink and number == depth - 1 else 1) for number in range(1, depth)]
    return _Chain(blocks)


def _activated(channels: int, result: int, size: int = 3, stride: int = 1) -> list[nn.Module]:
    return [
        nn.BatchNorm2d(channels, eps=EPSILON),
        nn.LeakyReLU(SLOPE),
        nn.Conv2d(channels, result, size, stride=stride, padding=size // 2),
    ]


def _enlarging(grow: bool) -> list[nn.Module]:
    return [nn.Upsample(scale_factor=2, mode="nearest")] if grow else []
