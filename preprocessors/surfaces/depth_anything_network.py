"""The network of Depth Anything: a vision transformer whose layers a convolutional decoder reads at four depths.

`depth_anything.py` says where it comes from. This file imports torch, and is imported when a network is loaded.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# torch declares some functions incompletely.

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

HEAD = 64  # channels of an attention head, in all sizes of DINOv2
EPSILON = 1e-6  # of its layer norms
FINEST, FINER, COARSER = 4, 2, 2  # by how much the first two readings are enlarged, and the last one is shrunk

Shapes = Mapping[str, tuple[int, ...]]


class DepthAnything(nn.Module):
    """float [B, 3, H, W], sides multiples of the patch -> inverse depth [B, 1, H, W]. `read`: layers, from 1 on."""

    def __init__(self, shapes: Shapes, layers: int, read: Sequence[int]) -> None:
        super().__init__()
        channels, patch = shapes["cls"][-1], shapes["patch.weight"][-1]
        hidden = shapes["blocks.0.fc1.weight"][0]
        self.read, self.size = tuple(read), patch
        self.cls = nn.Parameter(torch.empty(1, 1, channels))
        self.positions = nn.Parameter(torch.empty(shapes["positions"]))
        self.patch = nn.Conv2d(3, channels, patch, patch)
        self.blocks = nn.ModuleList(Block(channels, hidden) for _ in range(layers))
        self.norm = nn.LayerNorm(channels, EPSILON)
        necks = [shapes[f"project.{k}.weight"][0] for k in range(4)]
        fused = shapes["reduce.0.weight"][0]
        self.project = nn.ModuleList(nn.Conv2d(channels, neck, 1) for neck in necks)
        self.resize = nn.ModuleList((
            nn.ConvTranspose2d(necks[0], necks[0], FINEST, FINEST),
            nn.ConvTranspose2d(necks[1], necks[1], FINER, FINER),
            nn.Identity(),
            nn.Conv2d(necks[3], necks[3], 3, COARSER, 1),
        ))  # fmt: skip
        self.reduce = nn.ModuleList(nn.Conv2d(neck, fused, 3, padding=1, bias=False) for neck in necks)
        self.fuse = nn.ModuleList(Fusion(fused) for _ in range(4))
        self.head = Head(fused, shapes["head.conv2.weight"][0])

    def forward(self, pixels: Tensor) -> Tensor:
        """Return inverse depth; the decoder goes from coarse to fine, and each reading corrects what came before."""
        size = pixels.shape[-2] // self.size, pixels.shape[-1] // self.size
        readings = self._readings(pixels, size)
        maps = [
            reduce(resize(project(reading)))
            for reading, project, resize, reduce in zip(readings, self.project, self.resize, self.reduce, strict=True)
        ]
        fused: Tensor | None = None
        for number, layer in enumerate(self.fuse):
            finer = maps[2 - number].shape[-2:] if number < 3 else None
            fused = cast("Tensor", layer(maps[3 - number], fused, finer))
        return self.head(fused, (size[0] * self.size, size[1] * self.size))

    def _readings(self, pixels: Tensor, size: tuple[int, int]) -> list[Tensor]:
        """Return [B, C, h, w] after each of the layers that are read."""
        tokens = self.patch(pixels).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls.expand(len(tokens), -1, -1), tokens], dim=1) + self._places(size)
        found: list[Tensor] = []
        for number, block in enumerate(self.blocks, start=1):
            tokens = block(tokens)
            if number in self.read:
                found.append(self.norm(tokens)[:, 1:].transpose(1, 2).unflatten(2, size))
        return found

    def _places(self, size: tuple[int, int]) -> Tensor:
        """Return places [1, 1 + h * w, C], learned for a square and stretched to any other shape."""
        side = round((self.positions.shape[1] - 1) ** 0.5)
        if size == (side, side):
            return self.positions
        grid = self.positions[:, 1:].transpose(1, 2).unflatten(2, (side, side))
        grid = functional.interpolate(grid.float(), size, mode="bicubic", align_corners=False).to(grid.dtype)
        return torch.cat([self.positions[:, :1], grid.flatten(2).transpose(1, 2)], dim=1)


class Block(nn.Module):
    """Attention and two linear layers, each added with a learned weight for every channel."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(channels, EPSILON), nn.LayerNorm(channels, EPSILON)
        self.qkv, self.out = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)
        self.fc1, self.fc2 = nn.Linear(channels, hidden), nn.Linear(hidden, channels)
        self.scale1, self.scale2 = nn.Parameter(torch.empty(channels)), nn.Parameter(torch.empty(channels))

    def forward(self, tokens: Tensor) -> Tensor:
        """Return [B, N, C]."""
        tokens = tokens + self.scale1 * self._attend(self.norm1(tokens))
        return tokens + self.scale2 * self.fc2(functional.gelu(self.fc1(self.norm2(tokens))))

    def _attend(self, tokens: Tensor) -> Tensor:
        query, key, value = self.qkv(tokens).unflatten(2, (3, -1, HEAD)).permute(2, 0, 3, 1, 4)  # [B, heads, N, 64]
        return self.out(functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))


class Residual(nn.Module):
    """Two convolutions that add to what comes in."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, C, h, w]."""
        return x + self.conv2(functional.relu(self.conv1(functional.relu(x))))


class Fusion(nn.Module):
    """One step of the decoder: what came before and a new reading, enlarged. The first step has nothing before it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.unit1, self.unit2 = Residual(channels), Residual(channels)
        self.out = nn.Conv2d(channels, channels, 1)

    def forward(self, reading: Tensor, before: Tensor | None, size: Sequence[int] | None) -> Tensor:
        """Return the maps at `size`; None doubles them."""
        x = reading
        if before is not None:
            if before.shape != reading.shape:
                reading = functional.interpolate(reading, before.shape[-2:], mode="bilinear", align_corners=False)
            x = before + self.unit1(reading)
        x = self.unit2(x)
        target = size or (2 * x.shape[-2], 2 * x.shape[-1])
        return self.out(functional.interpolate(x, tuple(target), mode="bilinear", align_corners=True))


class Head(nn.Module):
    """From features to inverse depth, which is never negative."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels // 2, 3, padding=1)
        self.conv2 = nn.Conv2d(channels // 2, hidden, 3, padding=1)
        self.conv3 = nn.Conv2d(hidden, 1, 1)

    def forward(self, x: Tensor | None, size: tuple[int, int]) -> Tensor:
        """Return [B, 1, *size]."""
        x = functional.interpolate(self.conv1(x), size, mode="bilinear", align_corners=True)
        return functional.relu(self.conv3(functional.relu(self.conv2(x))))
