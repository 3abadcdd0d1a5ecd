"""A tiny transformer with Anima's names, files of ControlLLLite for it, and what those compute, by its formula.

Beside no code of ours: the formula is kohya's (`control_net_lllite_anima.py`), written with torch's functions alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

State = dict[str, Tensor]
PROJECTIONS = {
    "self_attn_q_proj": "self_attn.q_proj",
    "self_attn_k_proj": "self_attn.k_proj",
    "self_attn_v_proj": "self_attn.v_proj",
    "cross_attn_q_proj": "cross_attn.q_proj",
    "mlp_layer1": "mlp.layer1",
}
TRUNK, DILATIONS = "lllite_conditioning1", (1, 2, 4, 8)


class Attention(nn.Module):
    def __init__(self, width: int, context: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj, self.output_proj = nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False)
        self.k_proj, self.v_proj = nn.Linear(context, width, bias=False), nn.Linear(context, width, bias=False)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        there = x if context is None else context
        q, k, v = (
            each.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for each in (self.q_proj(x), self.k_proj(there), self.v_proj(there))
        )
        return self.output_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class MLP(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer1, self.layer2 = nn.Linear(width, 2 * width, bias=False), nn.Linear(2 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer2(F.gelu(self.layer1(x)))


class Block(nn.Module):
    """Its stream is a map [B, T, h, w, D], which the attentions see as tokens, and the MLP as it is."""

    def __init__(self, width: int, context: int, heads: int) -> None:
        super().__init__()
        self.self_attn, self.cross_attn = Attention(width, width, heads), Attention(width, context, heads)
        self.mlp = MLP(width)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        shape = x.shape
        x = x + self.self_attn(F.layer_norm(x, shape[-1:]).flatten(1, 3)).reshape(shape)
        x = x + self.cross_attn(F.layer_norm(x, shape[-1:]).flatten(1, 3), context).reshape(shape)
        return x + self.mlp(F.layer_norm(x, shape[-1:]))


class Transformer(nn.Module):
    """Latents [B, C, 1, h, w] -> [B, C, 1, h, w]; sides that are odd are filled up, as patches have two pixels."""

    def __init__(self, width: int = 32, blocks: int = 2, *, channels: int = 4, context: int = 12) -> None:
        super().__init__()
        self.x_embedder, self.final_layer = nn.Linear(4 * channels, width), nn.Linear(width, 4 * channels)
        self.t_embedder = nn.Linear(1, width)
        self.blocks = nn.ModuleList(Block(width, context, heads=2) for _ in range(blocks))

    def forward(self, x: Tensor, timesteps: Tensor, context: Tensor, **_: Any) -> Tensor:
        height, width = x.shape[-2:]
        x = F.pad(x, (0, width % 2, 0, height % 2))
        patches = x.unflatten(-1, (-1, 2)).unflatten(-3, (-1, 2))  # [B, C, T, h, 2, w, 2]
        h = self.x_embedder(patches.permute(0, 2, 3, 5, 1, 4, 6).flatten(4))
        h = h + self.t_embedder(timesteps[:, None])[:, None, None, None]
        for block in self.blocks:
            h = block(h, context)
        out = self.final_layer(h).unflatten(-1, (x.shape[1], 2, 2)).permute(0, 4, 1, 2, 5, 3, 6)
        return out.flatten(-2).flatten(-3, -2)[..., :height, :width]


def transformer(seed: int = 0, **given: Any) -> Transformer:
    """One with weights by chance."""
    generator = torch.Generator().manual_seed(seed)
    network = Transformer(**given)
    for each in network.parameters():
        each.data.normal_(0, 1 / max(1, each.shape[-1]) ** 0.5, generator=generator)
    return network.eval().requires_grad_(False)


def shapes(
    width: int = 32, blocks: Sequence[int] = (0, 1), *, projections: Sequence[str] = tuple(PROJECTIONS),
    embedding: int = 6, mlp: int = 5, trunk: int = 16, resblocks: int = 1, branches: int = 0, reads: int = 3,
) -> dict[str, tuple[int, ...]]:  # fmt: skip
    """What a file holds."""
    half = trunk // 2
    convolutions: dict[str, tuple[int, ...]] = {
        "conv1": (half, reads, 4, 4), "conv2": (half, half, 3, 3), "conv3": (trunk, half, 4, 4),
        "proj": (embedding, trunk, 1, 1),
        **{f"resblocks.{i}.conv{n}": (trunk, trunk, 3, 3) for i in range(resblocks) for n in (1, 2)},
    }  # fmt: skip
    norms = {"norm1": half, "norm2": half, "norm3": trunk, "out_norm": embedding}
    norms |= {f"resblocks.{i}.norm{n}": trunk for i in range(resblocks) for n in (1, 2)}
    if branches:
        for i, dilation in enumerate(DILATIONS[:branches]):
            convolutions[f"aspp.branches.{i}.0"] = (trunk, trunk, *((1, 1) if dilation == 1 else (3, 3)))
            norms[f"aspp.branches.{i}.1"] = trunk
        convolutions |= {
            "aspp.global_conv.0": (trunk, trunk, 1, 1), "aspp.proj.0": (trunk, trunk * (branches + 1), 1, 1),
        }  # fmt: skip
        norms |= {"aspp.global_conv.1": trunk, "aspp.proj.1": trunk}
    found: dict[str, tuple[int, ...]] = {}
    for name, shape in convolutions.items():
        found |= {f"{TRUNK}.{name}.weight": shape, f"{TRUNK}.{name}.bias": shape[:1]}
    for name, size in norms.items():
        found |= {f"{TRUNK}.{name}.weight": (size,), f"{TRUNK}.{name}.bias": (size,)}
    layers = {"down": (mlp, width), "mid": (mlp, mlp + embedding), "cond_to_film": (2 * mlp, embedding)}
    layers |= {"up": (width, mlp)}
    for block in blocks:
        for projection in projections:
            name = f"lllite_dit_blocks_{block}_{projection}"
            found[f"{name}.depth_embed"] = (embedding,)
            for layer, shape in layers.items():
                found |= {f"{name}.{layer}.weight": shape, f"{name}.{layer}.bias": shape[:1]}
    return found


def state(seed: int = 0, **given: Any) -> State:
    """A file with weights by chance."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(shape, generator=generator) * (1.5 / max(1, math.prod(shape[1:])) ** 0.5)
        for name, shape in shapes(**given).items()
    }


def tokens(file: State, hint: Tensor, dilations: Sequence[int] = DILATIONS) -> Tensor:
    """What the trunk makes of a hint [N, C, H, W] as it reads it, [N, H / 16 * W / 16, E]."""

    def conv(name: str, x: Tensor, **given: Any) -> Tensor:
        return F.conv2d(x, file[f"{TRUNK}.{name}.weight"], file[f"{TRUNK}.{name}.bias"], **given)

    def norm(name: str, x: Tensor) -> Tensor:
        groups = next(each for each in (8, 4, 2, 1) if x.shape[1] % each == 0)
        return F.group_norm(x, groups, file[f"{TRUNK}.{name}.weight"], file[f"{TRUNK}.{name}.bias"])

    h = F.silu(norm("norm1", conv("conv1", hint, stride=4)))
    h = F.silu(norm("norm2", conv("conv2", h, padding=1)))
    h = F.silu(norm("norm3", conv("conv3", h, stride=4)))
    for i in range(sum(f"{TRUNK}.resblocks.{n}.conv1.weight" in file for n in range(9))):
        inner = conv(f"resblocks.{i}.conv1", F.silu(norm(f"resblocks.{i}.norm1", h)), padding=1)
        h = h + conv(f"resblocks.{i}.conv2", F.silu(norm(f"resblocks.{i}.norm2", inner)), padding=1)
    if f"{TRUNK}.aspp.proj.0.weight" in file:
        found: list[Tensor] = []
        for i, dilation in enumerate(dilations):
            wide = {} if dilation == 1 else {"padding": dilation, "dilation": dilation}
            found.append(F.silu(norm(f"aspp.branches.{i}.1", conv(f"aspp.branches.{i}.0", h, **wide))))
        mean = F.silu(norm("aspp.global_conv.1", conv("aspp.global_conv.0", F.adaptive_avg_pool2d(h, 1))))
        found.append(F.interpolate(mean, h.shape[-2:], mode="bilinear"))
        h = F.silu(norm("aspp.proj.1", conv("aspp.proj.0", torch.cat(found, dim=1))))
    e = conv("proj", h).flatten(2).transpose(1, 2)
    return F.layer_norm(e, e.shape[-1:], file[f"{TRUNK}.out_norm.weight"], file[f"{TRUNK}.out_norm.bias"])


def added(file: State, name: str, e: Tensor, x: Tensor) -> Tensor:
    """What one module adds to what its projection receives, x [B, N, D]; e [B or 1, N, E]."""

    def linear(layer: str, value: Tensor) -> Tensor:
        return F.linear(value, file[f"{name}.{layer}.weight"], file[f"{name}.{layer}.bias"])

    c = e + file[f"{name}.depth_embed"]
    gain, bias = linear("cond_to_film", c).chunk(2, dim=-1)
    u = F.silu(linear("down", x))
    v = linear("mid", torch.cat([c.expand(len(x), -1, -1), u], dim=-1))
    return linear("up", F.silu(v * (1 + gain) + bias))
