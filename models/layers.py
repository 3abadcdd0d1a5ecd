"""Blocks of the latent-diffusion U-Net that control networks share, with the parameter names of the original code.

Every class is built from a `Kit`: an `ops` namespace with Linear, Conv2d, GroupNorm and LayerNorm (default `torch.nn`),
so that a host can bring layers that cast and offload their weights, and `attention(q, k, v, heads)`, so that it can
bring its attention. Structure: Rombach et al. 2022, `ldm/modules` of CompVis/latent-diffusion.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .convolution import Layers, for_few_pixels

RESNET_EPS, TRANSFORMER_EPS = 1e-5, 1e-6  # ldm `normalization` and `Normalize`
STANDARD_GROUPS = 32  # of group normalisation, ldm `normalization`
MAX_PERIOD = 10000.0  # of the sinusoids, Vaswani et al. 2017, section 3.5

Attention = Callable[[Tensor, Tensor, Tensor, int], Tensor]
Rows = Callable[[Tensor], Tensor]  # [n, ...] -> [B, ...]; what has B rows stays


class Ops(Protocol):
    """The layers a network is built from, named and called as those of `torch.nn`."""

    Linear: Any
    Conv2d: Any
    GroupNorm: Any
    LayerNorm: Any


class _Unfilled(nn.Module):
    """A layer that costs nothing to build on the meta device, where a network waits for its file's weights."""

    weight: Tensor

    def reset_parameters(self) -> None:
        """Fill the weights by chance, but on the meta device: there it takes a fifth of a load, for nothing."""
        if not self.weight.is_meta:
            layer: Any = super()  # torch's layer, which comes next
            layer.reset_parameters()


class Linear(_Unfilled, nn.Linear):
    """A linear layer."""


class Conv2d(_Unfilled, nn.Conv2d):
    """A convolution."""


TORCH_OPS = for_few_pixels(Layers(Linear, Conv2d, nn.GroupNorm, nn.LayerNorm))


def as_it_is(tensor: Tensor) -> Tensor:
    """Return the tensor: the `Rows` of a stream that has all rows from its beginning."""
    return tensor


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Compute scaled dot-product attention of q [B, N, heads * d] over k, v [B, T, heads * d], of the shape of q."""
    out = F.scaled_dot_product_attention(_split(q, heads), _split(k, heads), _split(v, heads))
    return out.transpose(1, 2).flatten(2)


def _split(tensor: Tensor, heads: int) -> Tensor:
    return tensor.reshape(*tensor.shape[:2], heads, -1).transpose(1, 2)  # [B, heads, N, d]


def timestep_embedding(timestep: Tensor, width: int) -> Tensor:
    """Return sinusoids of a timestep [B] -> [B, width] in fp32: cosines first, as in ldm."""
    half = width // 2
    rates = torch.exp(torch.arange(half, dtype=torch.float32, device=timestep.device) * (-math.log(MAX_PERIOD) / half))
    angles = timestep.float()[:, None] * rates[None]
    return torch.cat([angles.cos(), angles.sin()], dim=1)


@dataclass(frozen=True, slots=True)
class Kit:
    """What all blocks of one network are built from."""

    ops: Ops = TORCH_OPS
    attention: Attention = attend
    groups: int = STANDARD_GROUPS


STANDARD = Kit()


class ResBlock(nn.Module):
    """Residual block with the time embedding added between its convolutions: [B, C, h, w] -> [B, C', h, w]."""

    def __init__(self, channels: int, out: int, emb: int, kit: Kit) -> None:
        super().__init__()
        ops, groups = kit.ops, kit.groups
        self.in_layers = nn.Sequential(
            ops.GroupNorm(groups, channels, eps=RESNET_EPS), nn.SiLU(), ops.Conv2d(channels, out, 3, padding=1)
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), ops.Linear(emb, out))
        self.out_layers = nn.Sequential(
            ops.GroupNorm(groups, out, eps=RESNET_EPS), nn.SiLU(), nn.Identity(), ops.Conv2d(out, out, 3, padding=1)
        )
        self.skip_connection = nn.Identity() if channels == out else ops.Conv2d(channels, out, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.in_layers(x) + self.emb_layers(emb)[..., None, None]
        return self.skip_connection(x) + self.out_layers(h)


class Downsample(nn.Module):
    """Halve the size with a convolution of stride 2."""

    def __init__(self, channels: int, kit: Kit) -> None:
        super().__init__()
        self.op = kit.ops.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)


class CrossAttention(nn.Module):
    """Attention of x [B, N, width] over a context [B, T, context]; keys and values can be projected beforehand."""

    def __init__(self, width: int, context: int, heads: int, kit: Kit) -> None:
        super().__init__()
        self._heads, self._attention, ops = heads, kit.attention, kit.ops
        self.to_q = ops.Linear(width, width, bias=False)
        self.to_k = ops.Linear(context, width, bias=False)
        self.to_v = ops.Linear(context, width, bias=False)
        self.to_out = nn.Sequential(ops.Linear(width, width), nn.Identity())

    def project(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Project a context [B, T, context] to keys and values: two tensors [B, T, width]."""
        return self.to_k(context), self.to_v(context)

    def forward(self, x: Tensor, k: Tensor, v: Tensor, widen: Rows = as_it_is) -> Tensor:
        return self.to_out(self._attention(widen(self.to_q(x)), k, v, self._heads))


class GEGLU(nn.Module):
    """Gated linear unit with GELU (Shazeer 2020)."""

    def __init__(self, width: int, inner: int, kit: Kit) -> None:
        super().__init__()
        self.proj = kit.ops.Linear(width, inner * 2)

    def forward(self, x: Tensor) -> Tensor:
        x, gate = self.proj(x).chunk(2, dim=-1)
        return x * F.gelu(gate)


class FeedForward(nn.Module):
    """GEGLU to four times the width, and back."""

    def __init__(self, width: int, kit: Kit) -> None:
        super().__init__()
        self.net = nn.Sequential(GEGLU(width, width * 4, kit), nn.Identity(), kit.ops.Linear(width * 4, width))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention over the prompt, feed-forward, each with a residual.

    x may have fewer rows than the prompt: `widen` gives it the prompt's rows where the prompt first sets them apart.
    """

    def __init__(self, width: int, context: int, heads: int, kit: Kit) -> None:
        super().__init__()
        self.attn1 = CrossAttention(width, width, heads, kit)
        self.attn2 = CrossAttention(width, context, heads, kit)
        self.ff = FeedForward(width, kit)
        self.norm1, self.norm2, self.norm3 = (kit.ops.LayerNorm(width) for _ in range(3))

    def forward(self, x: Tensor, k: Tensor, v: Tensor, widen: Rows = as_it_is) -> Tensor:
        normed = self.norm1(x)
        x = x + self.attn1(normed, *self.attn1.project(normed))
        x = widen(x) + self.attn2(self.norm2(x), k, v, widen)
        return x + self.ff(self.norm3(x))


class SpatialTransformer(nn.Module):
    """Transformer blocks over the pixels of x [B, C, h, w].

    `linear`: SD 2.x and SDXL project with linear layers, SD 1.x with 1x1 convolutions.
    """

    def __init__(
        self, width: int, context: int, depth: int, heads: int, linear: bool, kit: Kit, inner: int | None = None
    ) -> None:
        """inner: width of the blocks, where that is not the pixels'."""
        super().__init__()
        self._linear, ops, inner = linear, kit.ops, width if inner is None else inner
        self.norm = ops.GroupNorm(kit.groups, width, eps=TRANSFORMER_EPS)
        self.proj_in = ops.Linear(width, inner) if linear else ops.Conv2d(width, inner, 1)
        blocks = [TransformerBlock(inner, context, heads, kit) for _ in range(depth)]
        self.transformer_blocks = nn.ModuleList(blocks)
        self.proj_out = ops.Linear(inner, width) if linear else ops.Conv2d(inner, width, 1)

    def project(self, context: Tensor) -> Iterator[Tensor]:
        """Yield keys and values of the prompt [B, T, D] for each block in turn: k, v, k, v ... each [B, T, width]."""
        for block in self.transformer_blocks:
            yield from block.attn2.project(context)  # type: ignore[union-attr, operator]

    def forward(self, x: Tensor, prompt: Iterator[Tensor], widen: Rows = as_it_is) -> Tensor:
        """Add what the blocks see to x [B, C, h, w].

        prompt: yields what `project` yielded; each block takes its two. widen: see `TransformerBlock`.
        """
        size = x.shape[-2:]
        h = self.norm(x)
        h = self.proj_in(h.flatten(2).transpose(1, 2)) if self._linear else self.proj_in(h).flatten(2).transpose(1, 2)
        for block in self.transformer_blocks:
            h = block(h, next(prompt), next(prompt), widen)  # [B, h * w, C]
        if self._linear:
            h = self.proj_out(h)
        h = h.transpose(1, 2).unflatten(2, size)  # [B, C, h, w]
        return widen(x) + (h if self._linear else self.proj_out(h))
