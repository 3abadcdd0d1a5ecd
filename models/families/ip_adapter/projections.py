"""From what an encoder saw in a picture to tokens as wide as a prompt's, with the names of the published files.

Plain ones read the image embedding, one token; plus and full-face ones the hidden states, one token for each place of
the picture. Plus ones ask for what they need, by attention from tokens of their own (the Perceiver resampler of
Alayrac et al., "Flamingo", 2022). Those of FaceID read the numbers of a recognised face; with them in place of its own
tokens, a resampler of plus and plusv2 asks for what CLIP sees of the face.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn

from ...layers import Kit

HEAD = 64  # channels of a head of the resampler's attention


class Plain(nn.Module):
    """An image embedding [N, 1, D] -> a few tokens [N, count, context]."""

    def __init__(self, width: int, context: int, count: int, kit: Kit) -> None:
        super().__init__()
        self._shape = (count, context)
        self.proj = kit.ops.Linear(width, count * context)
        self.norm = kit.ops.LayerNorm(context)

    def forward(self, seen: Tensor) -> Tensor:
        return self.norm(self.proj(seen[:, 0]).reshape(len(seen), *self._shape))


class FullFace(nn.Module):
    """Hidden states [N, T, D] -> as many tokens [N, T, context]."""

    def __init__(self, width: int, inner: int, context: int, kit: Kit) -> None:
        super().__init__()
        ops = kit.ops
        self.proj = nn.Sequential(
            ops.Linear(width, inner), nn.GELU(), ops.Linear(inner, context), ops.LayerNorm(context)
        )

    def forward(self, seen: Tensor) -> Tensor:
        return self.proj(seen)


class Face(nn.Module):
    """The numbers of a face [N, 1, D] -> a few tokens [N, count, context]."""

    def __init__(self, width: int, inner: int, context: int, count: int, kit: Kit) -> None:
        super().__init__()
        ops = kit.ops
        self._shape = (count, context)
        self.proj = nn.Sequential(ops.Linear(width, inner), nn.GELU(), ops.Linear(inner, count * context))
        self.norm = ops.LayerNorm(context)

    def forward(self, seen: Tensor) -> Tensor:
        return self.norm(self.proj(seen[:, 0]).reshape(len(seen), *self._shape))


class PerceiverAttention(nn.Module):
    """Attention from tokens of its own over the picture's and themselves."""

    def __init__(self, width: int, inner: int, kit: Kit) -> None:
        super().__init__()
        ops = kit.ops
        self._attention, self._heads = kit.attention, inner // HEAD
        self.norm1, self.norm2 = ops.LayerNorm(width), ops.LayerNorm(width)
        self.to_q = ops.Linear(width, inner, bias=False)
        self.to_kv = ops.Linear(width, 2 * inner, bias=False)
        self.to_out = ops.Linear(inner, width, bias=False)

    def forward(self, seen: Tensor, tokens: Tensor) -> Tensor:
        normed = self.norm2(tokens)
        k, v = self.to_kv(torch.cat([self.norm1(seen), normed], dim=1)).chunk(2, dim=-1)
        return self.to_out(self._attention(self.to_q(normed), k, v, self._heads))


class Asking(nn.Module):
    """Hidden states [N, T, D] and tokens [N, count, width] that ask about them -> tokens [N, count, context]."""

    def __init__(self, seen: int, width: int, inner: int, feed: int, context: int, depth: int, kit: Kit) -> None:
        """seen: width of the hidden states. width: of its own tokens. inner, feed: of attention and feed-forward."""
        super().__init__()
        ops = kit.ops
        self.proj_in, self.proj_out = ops.Linear(seen, width), ops.Linear(width, context)
        self.norm_out = ops.LayerNorm(context)
        self.layers = nn.ModuleList(
            nn.ModuleList([PerceiverAttention(width, inner, kit), _feed_forward(width, feed, kit)])
            for _ in range(depth)
        )

    def ask(self, seen: Tensor, tokens: Tensor) -> Tensor:
        """Return the answers to the tokens."""
        seen = self.proj_in(seen)
        for attention, feed in cast("Iterable[tuple[PerceiverAttention, nn.Sequential]]", self.layers):
            tokens = tokens + attention(seen, tokens)
            tokens = tokens + cast(Tensor, feed(tokens))
        return self.norm_out(self.proj_out(tokens))


class Resampler(Asking):
    """Hidden states [N, T, D] -> tokens [N, count, context]."""

    def __init__(
        self, seen: int, width: int, inner: int, feed: int, context: int, count: int, depth: int, kit: Kit
    ) -> None:
        super().__init__(seen, width, inner, feed, context, depth, kit)
        self.latents = nn.Parameter(torch.empty(1, count, width))

    def forward(self, seen: Tensor) -> Tensor:
        return self.ask(seen, self.latents.to(seen).expand(len(seen), -1, -1))


class FacePlus(Face):
    """The numbers of a face, and hidden states of CLIP behind them [N, 1 + T, D] -> tokens [N, count, context].

    The first row holds the numbers and is filled up with zeros. beside: whether the face's own tokens stay (plusv2),
    and the answers are added to them with the factor `structure`.
    """

    def __init__(self, width: int, inner: int, context: int, count: int, asking: Asking, kit: Kit) -> None:
        """width: how many numbers a face has. inner: width between its two projections."""
        super().__init__(width, inner, context, count, kit)
        self._numbers = width
        self.perceiver_resampler = asking

    def forward(self, seen: Tensor, beside: bool = True, structure: float = 1.0) -> Tensor:
        tokens = super().forward(seen[:, :1, : self._numbers])
        answers = self.perceiver_resampler.ask(seen[:, 1:], tokens)
        return tokens + structure * answers if beside else answers


def _feed_forward(width: int, inner: int, kit: Kit) -> nn.Sequential:
    ops = kit.ops
    return nn.Sequential(
        ops.LayerNorm(width), ops.Linear(width, inner, bias=False), nn.GELU(), ops.Linear(inner, width, bias=False)
    )
