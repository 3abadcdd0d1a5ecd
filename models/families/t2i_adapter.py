"""T2I-Adapter: a small network that reads the hint once and adds features to the U-Net's encoder stream.

Mou et al., "T2I-Adapter: Learning Adapters to Dig out More Controllable Ability for Text-to-Image Diffusion Models",
AAAI 2024, sections 3.2 and 3.3. Four variants: full and light (SD 1.x and 2.x), SDXL, and style, which reads CLIP image
tokens and appends tokens to the prompt. Parameter names are those of TencentARC/T2I-Adapter
(`ldm/modules/encoders/adapter.py`).

The features depend neither on the latents nor on the step, so all work is done in `prepare`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...core.control import HintSpace, Prepared
from ...core.embedding import Embedding, Encoder, Values
from ...core.network.base import Base
from ...core.network.points import MIDDLE, PROMPT, stream
from ..family import Family, Shapes
from ..features import FeatureModel
from ..layers import STANDARD, TORCH_OPS, Kit, Ops
from ..settings import Settings

T = TypeVar("T")

LEVELS = 4
UNSHUFFLE, UNSHUFFLE_XL = 8, 16  # pixels that become channels
SOFT_WEIGHTS = (0.25, 0.62, 0.825, 1.0)  # sd-webui-controlnet, hook.py, for "my prompt is more important"
POINTS = tuple(stream(i) for i in (2, 5, 8, 11))
POINTS_XL = (*(stream(i) for i in (3, 5, 8)), MIDDLE)
LEVELS_OF_BLOCKS = (0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3)  # which level's width each input block of the U-Net has
LEVELS_OF_BLOCKS_XL = (0, 0, 0, 0, 1, 1, 1, 2, 2)
STYLE_HEADS = 8
PREFIX = "adapter."  # of diffusers' files
PAPER = "Mou et al., AAAI 2024"


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterConfig:
    """The hyperparameters of a full, light or SDXL adapter."""

    channels: tuple[int, ...]  # of the four feature maps
    inner: tuple[int, ...]  # of the residual blocks of each level; the light variant computes at a quarter
    depth: int  # residual blocks a level
    kernel: int  # of a residual block's second convolution
    hint_channels: int  # 3, or 1: the mean of red, green and blue
    xl: bool

    @classmethod
    def from_shapes(cls, shapes: Shapes) -> AdapterConfig:
        """Read the configuration from the shapes of the original names."""
        light = "conv_in.weight" not in shapes
        first = shapes["body.0.in_conv.weight" if light else "conv_in.weight"]
        xl = not light and first[1] in (UNSHUFFLE_XL**2, 3 * UNSHUFFLE_XL**2)
        blocks = 1 + max(int(name.split(".")[1]) for name in shapes if name.startswith("body."))
        if light:
            channels = tuple(shapes[f"body.{i}.out_conv.weight"][0] for i in range(blocks))
            inner = tuple(shapes[f"body.{i}.in_conv.weight"][0] for i in range(blocks))
            depth = 1 + max(int(name.split(".")[3]) for name in shapes if name.startswith("body.0.body."))
        else:
            depth, rest = divmod(blocks, LEVELS)
            if rest or not depth:
                raise ValueError(f"it has {blocks} residual blocks, expected as many for each of {LEVELS} levels")
            channels = inner = tuple(shapes[f"body.{i * depth}.block1.weight"][0] for i in range(LEVELS))
        block2 = "body.0.body.0.block2.weight" if light else "body.0.block2.weight"
        unshuffle = UNSHUFFLE_XL if xl else UNSHUFFLE
        if first[1] not in (unshuffle**2, 3 * unshuffle**2):
            raise ValueError(f"it reads {first[1]} channels, expected those of a grey or a coloured hint")
        return cls(
            channels=channels,
            inner=inner,
            depth=depth,
            kernel=shapes[block2][2],
            hint_channels=first[1] // unshuffle**2,
            xl=xl,
        )

    @property
    def base(self) -> Base:
        """Return the base model that the adapter was made for."""
        levels = LEVELS_OF_BLOCKS_XL if self.xl else LEVELS_OF_BLOCKS
        return Base(blocks=tuple(self.channels[level] for level in levels))

    @property
    def light(self) -> bool:
        """Return whether it is the light variant, which has no first convolution."""
        return self.channels != self.inner

    @property
    def unshuffle(self) -> int:
        """Hint pixels on a side that become channels of one pixel."""
        return UNSHUFFLE_XL if self.xl else UNSHUFFLE

    def halves(self, level: int) -> bool:
        """Return whether a level works at half the size of the one before."""
        return level == 2 if self.xl else level > 0


class Residual(nn.Module):
    """x + conv(relu(conv(x))), after an optional halving and change of width."""

    def __init__(self, channels: int, out: int, kernel: int, halve: bool, ops: Ops) -> None:
        super().__init__()
        self._halve = halve
        self.in_conv = None if channels == out else ops.Conv2d(channels, out, 1)
        self.block1 = ops.Conv2d(out, out, 3, padding=1)
        self.block2 = ops.Conv2d(out, out, kernel, padding=kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        x = _halved(x) if self._halve else x
        x = x if self.in_conv is None else self.in_conv(x)
        return x + self.block2(F.relu(self.block1(x)))


class Extractor(nn.Module):
    """A level of the light variant: narrow, residual blocks, wide."""

    def __init__(self, channels: int, config: AdapterConfig, level: int, ops: Ops) -> None:
        super().__init__()
        inner = config.inner[level]
        self._halve = config.halves(level)
        self.in_conv = ops.Conv2d(channels, inner, 1)
        self.body = nn.Sequential(*(Residual(inner, inner, config.kernel, False, ops) for _ in range(config.depth)))
        self.out_conv = ops.Conv2d(inner, config.channels[level], 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out_conv(self.body(self.in_conv(_halved(x) if self._halve else x)))


class Adapter(nn.Module):
    """hint [N, C, H, W] -> four feature maps; with the parameter names of the original."""

    def __init__(self, config: AdapterConfig, ops: Ops = TORCH_OPS) -> None:
        super().__init__()
        self.config = config
        width = config.hint_channels * config.unshuffle**2
        if config.light:
            widths = (width, *config.channels)
            self.body = nn.ModuleList(Extractor(widths[i], config, i, ops) for i in range(len(config.channels)))
        else:
            self.conv_in = ops.Conv2d(width, config.channels[0], 3, padding=1)
            self.body = nn.ModuleList(_full_body(config, ops))

    def forward(self, hint: Tensor) -> tuple[Tensor, ...]:
        x = F.pixel_unshuffle(hint, self.config.unshuffle)
        if self.config.light:
            return tuple(self._features(x, 1))
        return tuple(self._features(self.conv_in(x), self.config.depth))

    def _features(self, x: Tensor, per_level: int) -> Iterator[Tensor]:
        for i, block in enumerate(self.body):
            x = block(x)
            if (i + 1) % per_level == 0:
                yield x


class AdapterModel(FeatureModel):
    """A full, light or SDXL adapter as the stack sees it."""

    def __init__(self, network: Adapter, *, name: str, dtype: torch.dtype | None = None) -> None:
        points, base = POINTS_XL if network.config.xl else POINTS, network.config.base
        super().__init__(network, name=name, base=base, points=points, soft_weights=SOFT_WEIGHTS, dtype=dtype)
        self._config = network.config

    def prepare(self, hint: Tensor) -> Prepared:
        """Compute four feature maps of a hint [N, 3, 8h, 8w]; odd sizes are padded at the right and the bottom."""
        if self._config.hint_channels == 1:
            hint = hint.to(self.dtype).mean(dim=1, keepdim=True)
        rest = [-side % self._config.unshuffle for side in hint.shape[-2:]]
        if any(rest):
            hint = F.pad(hint, (0, rest[1], 0, rest[0]), mode="replicate")
        return super().prepare(hint)


class StyleAttention(nn.Module):
    """Self-attention of x [N, T, width], its three projections in one layer."""

    def __init__(self, width: int, kit: Kit) -> None:
        super().__init__()
        self._attention = kit.attention
        self.in_proj = kit.ops.Linear(width, 3 * width)
        self.out_proj = kit.ops.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.in_proj(x).chunk(3, dim=-1)
        return self.out_proj(self._attention(q, k, v, STYLE_HEADS))


class StyleBlock(nn.Module):
    """A transformer block of CLIP's kind: x [N, T, width] -> the same shape."""

    def __init__(self, width: int, kit: Kit) -> None:
        super().__init__()
        ops = kit.ops
        self.attn = StyleAttention(width, kit)
        self.ln_1, self.ln_2 = ops.LayerNorm(width), ops.LayerNorm(width)
        self.mlp = nn.ModuleDict({"c_fc": ops.Linear(width, 4 * width), "c_proj": ops.Linear(4 * width, width)})

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        h = self.mlp["c_fc"](self.ln_2(x))
        return x + self.mlp["c_proj"](h * torch.sigmoid(1.702 * h))  # CLIP's approximation of GELU


class StyleAdapter(nn.Module):
    """CLIP's image tokens [N, T, width] -> tokens beside the prompt's [N, count, context]."""

    def __init__(self, width: int, context: int, count: int, layers: int, kit: Kit = STANDARD) -> None:
        super().__init__()
        ops = kit.ops
        self.transformer_layes = nn.Sequential(*(StyleBlock(width, kit) for _ in range(layers)))  # their spelling
        self.ln_pre, self.ln_post = ops.LayerNorm(width), ops.LayerNorm(width)
        self.style_embedding = nn.Parameter(torch.empty(1, count, width))
        self.proj = nn.Parameter(torch.empty(width, context))

    def forward(self, tokens: Tensor) -> tuple[Tensor]:
        embedding, proj = self.style_embedding.to(tokens), self.proj.to(tokens)
        x = torch.cat([tokens, embedding.expand(len(tokens), -1, -1)], dim=1)
        x = self.transformer_layes(self.ln_pre(x))
        return (self.ln_post(x[:, -embedding.shape[1] :]) @ proj,)


class StyleModel(FeatureModel):
    """The style adapter as the stack sees it: its hint is the last hidden state of CLIP ViT-L/14, [N, 257, 1024]."""

    cond_only = True  # an uncond prompt has no style
    hint_space, embedding = HintSpace.EMBEDDING, Embedding(Encoder.CLIP_L, Values.LAST_STATES)

    def __init__(self, network: StyleAdapter, *, name: str, dtype: torch.dtype | None = None) -> None:
        width, context = network.proj.shape
        base = Base(context=context)
        super().__init__(network, name=name, base=base, points=(PROMPT,), hint_channels=width, dtype=dtype)


def _halved(x: Tensor) -> Tensor:
    """Average 2 x 2 pixels: [N, C, h, w] -> half the size, rounded up as the U-Net's blocks are."""
    return F.avg_pool2d(x, 2, ceil_mode=True)


def _full_body(config: AdapterConfig, ops: Ops) -> Iterator[Residual]:
    width = config.channels[0]
    for level, out in enumerate(config.channels):
        for i in range(config.depth):
            yield Residual(width, out, config.kernel, config.halves(level) and i == 0, ops)
            width = out


class AdapterFamily(Family[Adapter, Settings]):
    """Full, light and SDXL adapters, in the original names and in those of diffusers."""

    id, title, settings = "t2i-adapter", "T2I-Adapter", Settings
    bases, paper = "SD 1.x, SD 2.x, SDXL", PAPER

    def detect(self, shapes: Shapes) -> bool:
        names = {name.removeprefix(PREFIX) for name in shapes}
        full = "conv_in.weight" in names and bool({"body.0.block1.weight", "body.0.resnets.0.block1.weight"} & names)
        return full or {"body.0.in_conv.weight", "body.0.out_conv.weight"} <= names

    def layout(self, names: Collection[str]) -> str:
        diffusers = any(name.startswith(PREFIX) or ".resnets." in name for name in names)
        return "diffusers" if diffusers else "original"

    def rename(self, named: Mapping[str, T]) -> dict[str, T]:
        per_level = _per_level(named)
        return {_original_name(name, per_level): each for name, each in named.items()}

    def base(self, shapes: Shapes) -> Base:
        return AdapterConfig.from_shapes(shapes).base

    def create(self, shapes: Shapes, settings: Settings, kit: Kit) -> Adapter:
        return Adapter(AdapterConfig.from_shapes(shapes), kit.ops)

    def wrap(self, network: Adapter, name: str, settings: Settings, dtype: torch.dtype | None) -> AdapterModel:
        return AdapterModel(network, name=name, dtype=dtype)


class StyleFamily(Family[StyleAdapter, Settings]):
    """Style adapters. Their attention's projections have the names of torch's own attention layer."""

    id, title, settings = "t2i-style", "T2I-Adapter (style)", Settings
    bases, paper, page = "SD 1.x", PAPER, "t2i-adapter"

    def detect(self, shapes: Shapes) -> bool:
        return "style_embedding" in shapes and "proj" in shapes

    def rename(self, named: Mapping[str, T]) -> dict[str, T]:
        return {name.replace(".attn.in_proj_", ".attn.in_proj."): each for name, each in named.items()}

    def create(self, shapes: Shapes, settings: Settings, kit: Kit) -> StyleAdapter:
        count, (width, context) = shapes["style_embedding"][1], shapes["proj"]
        if 0 in (count, width, context):
            raise ValueError(f"it makes {count} tokens of width {context} from width {width}")
        layers = len({name.split(".")[1] for name in shapes if name.startswith("transformer_layes.")})
        return StyleAdapter(width, context, count, layers, kit)

    def wrap(self, network: StyleAdapter, name: str, settings: Settings, dtype: torch.dtype | None) -> StyleModel:
        return StyleModel(network, name=name, dtype=dtype)


FAMILY, STYLE_FAMILY = AdapterFamily(), StyleFamily()


def _per_level(names: Iterable[str]) -> int:
    """Return how many residual blocks a level of a full adapter has in diffusers' names; 0 for the light one.

    The light one keeps its levels.
    """
    names = list(names)
    if any(name.endswith("body.0.out_conv.weight") for name in names):
        return 0
    counts = (int(name.split(".resnets.")[1].split(".")[0]) for name in names if ".resnets." in name)
    return 1 + max(counts, default=0)


def _original_name(name: str, per_level: int) -> str:
    """Translate `adapter.body.i.resnets.j.x` to `body.(n i + j).x`, for the light variant to `body.i.body.j.x`."""
    bare = name.removeprefix(PREFIX)
    parts = bare.split(".")
    if parts[0] != "body" or not per_level:
        return bare.replace(".resnets.", ".body.")
    if parts[2] == "resnets":
        return ".".join(["body", str(int(parts[1]) * per_level + int(parts[3])), *parts[4:]])
    if name.startswith(PREFIX):
        return ".".join(["body", str(int(parts[1]) * per_level), *parts[2:]])
    return bare
