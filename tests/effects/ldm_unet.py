"""A tiny U-Net that is built as latent diffusion builds them, with random weights.

With `options` it also does what the U-Net of Forge's family does with a control's lists and with patches, written from
what those programs promise: tensors are taken from the end of their list, and a patch is called where its name says.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from controlstack.models.layers import Downsample, Kit, ResBlock, attend, timestep_embedding
from families import random_layer
from torch import Tensor, nn

WIDTH, CONTEXT, EMB, HEADS = 8, 6, 32, 2
KIT = Kit(groups=4)
Options = dict[str, Any]


class Attention(nn.Module):
    def __init__(self, width: int, context: int) -> None:
        super().__init__()
        self.heads = HEADS
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k, self.to_v = (nn.Linear(context, width, bias=False) for _ in range(2))
        self.to_out = nn.Sequential(nn.Linear(width, width), nn.Identity())

    def forward(self, x: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return self.to_out(attend(self.to_q(x), self.to_k(k), self.to_v(v), HEADS))


class TransformerBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.attn1, self.attn2 = Attention(width, width), Attention(width, CONTEXT)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, x: Tensor, context: Tensor, options: Options) -> Tensor:
        for name, norm in (("attn1", self.norm1), ("attn2", self.norm2)):
            q = norm(x)
            k = v = q if name == "attn1" else context
            for patch in patches(options, f"{name}_patch"):
                q, k, v = patch(q, k, v, options)
            out = getattr(self, name)(q, k, v)
            for patch in patches(options, f"{name}_output_patch"):
                out = patch(out, options)
            x = x + out
        return x


class Transformer(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.transformer_blocks = nn.ModuleList([TransformerBlock(width)])

    def forward(self, x: Tensor, context: Tensor, options: Options) -> Tensor:
        h = x.flatten(2).transpose(1, 2)
        for index, block in enumerate(self.transformer_blocks):
            h = block(h, context, {**options, "block_index": index})
        return x + h.transpose(1, 2).reshape(x.shape)


class Upsample(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Layers(nn.Sequential):
    def forward(self, x: Tensor, emb: Tensor, context: Tensor, options: Options) -> Tensor:  # type: ignore[override]
        for layer in self:
            more = {ResBlock: (emb,), Transformer: (context, options)}.get(type(layer), ())  # type: ignore[arg-type]
            x = layer(x, *more)
        return x


class UNet(nn.Module):
    """Two levels of one residual block and one transformer each: four input blocks, four output blocks."""

    channel_mult, num_res_blocks, model_channels = (1, 2), 1, WIDTH

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        one, two = WIDTH, 2 * WIDTH
        self.time_embed = nn.Sequential(nn.Linear(WIDTH, EMB), nn.SiLU(), nn.Linear(EMB, EMB))
        self.input_blocks = nn.ModuleList([
            Layers(nn.Conv2d(4, one, 3, padding=1)),
            Layers(ResBlock(one, one, EMB, KIT), Transformer(one)),
            Layers(Downsample(one, KIT)),
            Layers(ResBlock(one, two, EMB, KIT), Transformer(two)),
        ])  # fmt: skip
        self.middle_block = Layers(ResBlock(two, two, EMB, KIT), Transformer(two), ResBlock(two, two, EMB, KIT))
        self.output_blocks = nn.ModuleList([
            Layers(ResBlock(two + two, two, EMB, KIT), Transformer(two)),
            Layers(ResBlock(two + one, two, EMB, KIT), Transformer(two), Upsample(two)),
            Layers(ResBlock(two + one, one, EMB, KIT), Transformer(one)),
            Layers(ResBlock(one + one, one, EMB, KIT), Transformer(one)),
        ])  # fmt: skip
        self.out = nn.Sequential(nn.GroupNorm(4, one), nn.SiLU(), nn.Conv2d(one, 4, 3, padding=1))
        random_layer(self, 100 + seed, scale=1.0)

    def forward(
        self,
        x: Tensor,
        timesteps: Tensor,
        context: Tensor,
        y: Tensor | None = None,
        control: dict[str, list[Tensor | None]] | None = None,
        transformer_options: Options | None = None,
    ) -> Tensor:
        options = {} if transformer_options is None else transformer_options
        lists = {name: list(each) for name, each in (control or {}).items()}
        emb = self.time_embed(timestep_embedding(timesteps, WIDTH).to(x.dtype))
        skips: list[Tensor] = []
        for index, block in enumerate(self.input_blocks):
            options["block"] = ("input", index)
            x = added(block(x, emb, context, options), lists.get("input"))
            for patch in patches(options, "input_block_patch"):
                x = patch(x, options)
            skips.append(x)
            for patch in patches(options, "input_block_patch_after_skip"):
                x = patch(x, options)
        options["block"] = ("middle", 0)
        x = added(self.middle_block(x, emb, context, options), lists.get("middle"))
        for index, block in enumerate(self.output_blocks):
            options["block"] = ("output", index)
            skip = added(skips.pop(), lists.get("output"))
            for patch in patches(options, "output_block_patch"):
                x, skip = patch(x, skip, options)
            x = block(torch.cat([x, skip], dim=1), emb, context, options)
        return self.out(x)


def patches(options: Options, name: str) -> list[Any]:
    return options.get("patches", {}).get(name, [])


def added(x: Tensor, given: list[Tensor | None] | None) -> Tensor:
    tensor = given.pop() if given else None
    return x if tensor is None else x + tensor
