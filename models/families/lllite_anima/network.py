"""ControlLLLite for Anima (v2): before projections of a transformer's blocks, a small network shifts what they receive.

kohya-ss, ComfyUI-Anima-LLLite (`control_net_lllite_anima.py`). One trunk for all modules makes of the hint a vector
e for each token of the picture, 16 pixels on a side, which does not depend on the step. A module, which knows its depth
by a vector d of its own, adds to what its projection receives, x [B, N, C]:

    c = e + d;  g, b = film(c);  x + up(silu(mid([c, silu(down(x))]) * (1 + g) + b))

Hints are pictures in [-1, 1]; networks that fill holes read the hole as a fourth channel, and nothing of the picture
in it. A module's name says where its projection is:

    lllite_dit_blocks_4_self_attn_q_proj
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....core.errors import DamagedModelError
from ....core.network.points import Block, Part, Point
from ...family import Shapes
from ...guard import shown
from ...layers import Kit

START, TRUNK = "lllite_dit_", "lllite_conditioning1"
PLACE = re.compile(r"lllite_dit_blocks_(\d+)_(self_attn_[qkv]_proj|cross_attn_q_proj|mlp_layer1)")
PARTS = {  # by the names of the projections, in the order in which a block computes
    "self_attn_q_proj": Part.ATTN1_Q,
    "self_attn_k_proj": Part.ATTN1_K,
    "self_attn_v_proj": Part.ATTN1_V,
    "cross_attn_q_proj": Part.ATTN2_Q,
    "mlp_layer1": Part.MLP,
}
STRIDE = 4  # of the trunk's two convolutions that make the hint smaller; each is as large as it
GROUPS = 8  # of group normalisation, halved until they divide the channels


class ResBlock(nn.Module):
    """A residual block of the trunk, [N, C, h, w]."""

    def __init__(self, channels: int, kit: Kit) -> None:
        super().__init__()
        self.norm1, self.norm2 = _norm(channels, kit), _norm(channels, kit)
        self.conv1, self.conv2 = (kit.ops.Conv2d(channels, channels, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        return x + self.conv2(F.silu(self.norm2(h)))


class Surroundings(nn.Module):
    """What lies around each token, near and far (Chen et al. 2017, atrous spatial pyramid pooling), [N, C, h, w]."""

    def __init__(self, channels: int, dilations: Sequence[int], kit: Kit) -> None:
        super().__init__()
        self.branches = nn.ModuleList(_branch(channels, channels, each, kit) for each in dilations)
        self.global_conv = _branch(channels, channels, 1, kit)
        self.proj = _branch(channels * (len(dilations) + 1), channels, 1, kit)

    def forward(self, x: Tensor) -> Tensor:
        everywhere = self.global_conv(x.mean(dim=(2, 3), keepdim=True)).expand(x.shape)
        return self.proj(torch.cat([*(branch(x) for branch in self.branches), everywhere], dim=1))


@dataclass(frozen=True, slots=True)
class Widths:
    """Of the trunk: channels of what it reads, half-way, in the end, and of a token's vector; its residual blocks."""

    reads: int
    half: int
    whole: int
    embedding: int
    blocks: int
    branches: int  # 0: it has none

    @classmethod
    def of(cls, shapes: Shapes) -> Widths:
        """Read them from the shapes of a file."""
        half, reads = shapes[f"{TRUNK}.conv1.weight"][:2]
        whole, embedding = (shapes[f"{TRUNK}.{layer}.weight"][0] for layer in ("conv3", "proj"))
        blocks, branches = (count_below(f"{TRUNK}.{each}", shapes) for each in ("resblocks", "aspp.branches"))
        return cls(reads, half, whole, embedding, blocks, branches)


class Trunk(nn.Module):
    """A hint [N, 3 or 4, H, W] -> a vector for each token, [N, H / 16 * W / 16, E]."""

    def __init__(self, widths: Widths, dilations: Sequence[int], kit: Kit) -> None:
        super().__init__()
        ops, half, whole = kit.ops, widths.half, widths.whole
        self.conv1 = ops.Conv2d(widths.reads, half, STRIDE, stride=STRIDE)
        self.conv2 = ops.Conv2d(half, half, 3, padding=1)
        self.conv3 = ops.Conv2d(half, whole, STRIDE, stride=STRIDE)
        self.norm1, self.norm2, self.norm3 = _norm(half, kit), _norm(half, kit), _norm(whole, kit)
        self.resblocks = nn.ModuleList(ResBlock(whole, kit) for _ in range(widths.blocks))
        self.aspp = Surroundings(whole, dilations, kit) if widths.branches else None
        self.proj = ops.Conv2d(whole, widths.embedding, 1)
        self.out_norm = ops.LayerNorm(widths.embedding)

    def forward(self, hint: Tensor) -> Tensor:
        h = F.silu(self.norm1(self.conv1(hint)))
        h = F.silu(self.norm2(self.conv2(h)))
        h = F.silu(self.norm3(self.conv3(h)))
        for block in self.resblocks:
            h = block(h)
        h = h if self.aspp is None else self.aspp(h)
        return self.out_norm(self.proj(h).flatten(2).transpose(1, 2))


class Module(nn.Module):
    """Before one projection."""

    def __init__(self, inner: int, mlp: int, embedding: int, kit: Kit) -> None:
        super().__init__()
        self.inner = inner
        self.down, self.up = kit.ops.Linear(inner, mlp), kit.ops.Linear(mlp, inner)
        self.mid = kit.ops.Linear(embedding + mlp, mlp)
        self.cond_to_film = kit.ops.Linear(embedding, 2 * mlp)
        self.depth_embed = nn.Parameter(torch.empty(embedding))

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Return what is added to x [B, N, C]; embedding [1 or B, N, E]."""
        here = embedding + self.depth_embed
        gain, bias = self.cond_to_film(here).chunk(2, dim=-1)
        h = self.mid(torch.cat([here.expand(len(x), -1, -1), F.silu(self.down(x))], dim=-1))
        return self.up(F.silu(h * (1 + gain) + bias))


class AnimaLLLite(nn.Module):
    """The trunk and all modules, by their names in the file."""

    def __init__(self, shapes: Shapes, dilations: Sequence[int], kit: Kit) -> None:
        super().__init__()
        self.widths, self.names = Widths.of(shapes), names_in(shapes)
        self.lllite_conditioning1 = Trunk(self.widths, dilations, kit)
        for name in self.names:
            mlp, inner = shapes[f"{name}.down.weight"]
            self.add_module(name, Module(inner, mlp, self.widths.embedding, kit))

    @property
    def parts(self) -> list[tuple[Point, Module]]:
        """Return the modules with their points, in the order in which the base network computes."""
        return [(point_of(name), cast(Module, getattr(self, name))) for name in self.names]


def names_in(shapes: Shapes) -> list[str]:
    """Return the names of a file's modules in the order of computation; DamagedModelError for one that is no place."""
    names = {name.partition(".")[0] for name in shapes if name.startswith(START)}
    if wrong := next((name for name in sorted(names) if not PLACE.fullmatch(name)), None):
        raise DamagedModelError(f"'{shown(wrong)}' names no projection of Anima's blocks: get the file again")
    return sorted(names, key=lambda name: _order(point_of(name)))


def point_of(name: str) -> Point:
    """Return where a module acts."""
    found = PLACE.fullmatch(name)
    assert found is not None
    return Point(Block.LAYER, int(found[1]), PARTS[found[2]])


def _order(point: Point) -> tuple[int, int]:
    return point.index, list(PARTS.values()).index(point.part)


def count_below(start: str, shapes: Shapes) -> int:
    """Return how many parts with numbers there are below a name."""
    return len({name[len(start) + 1 :].partition(".")[0] for name in shapes if name.startswith(f"{start}.")})


def _norm(channels: int, kit: Kit) -> nn.Module:
    groups = GROUPS
    while channels % groups:
        groups //= 2
    return kit.ops.GroupNorm(groups, channels)


def _branch(reads: int, channels: int, dilation: int, kit: Kit) -> nn.Sequential:
    """Return a convolution of single tokens, or of tokens so far apart, with what follows it."""
    wide = {} if dilation == 1 else {"padding": dilation, "dilation": dilation}
    conv = kit.ops.Conv2d(reads, channels, 3 if wide else 1, **wide)
    return nn.Sequential(conv, _norm(channels, kit), nn.SiLU())
