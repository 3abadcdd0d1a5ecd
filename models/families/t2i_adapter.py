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
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...core.base import Base
from ...core.control import ControlModel, HintSpace, Prepared, Prompt
from ...core.points import MIDDLE, PROMPT, Point, stream
from ...core.step import Step
from ..family import Family, Shapes
from ..layers import TORCH_OPS, Kit, Ops

HINT_SCALE = 8  # hint pixels per latent pixel
LEVELS = 4
UNSHUFFLE, UNSHUFFLE_XL = 8, 16  # pixels that become channels
SOFT_WEIGHTS = (0.25, 0.62, 0.825, 1.0)  # sd-webui-controlnet, hook.py, for "my prompt is more important"
SLOTS = tuple(stream(i) for i in (2, 5, 8, 11))
SLOTS_XL = (*(stream(i) for i in (3, 5, 8)), MIDDLE)
LEVELS_OF_BLOCKS = (0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3)  # which level's width each input block of the U-Net has
LEVELS_OF_BLOCKS_XL = (0, 0, 0, 0, 1, 1, 1, 2, 2)
STYLE_HEADS = 8
PREFIX = "adapter."  # of diffusers' files


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
            depth = blocks // LEVELS
            channels = inner = tuple(shapes[f"body.{i * depth}.block1.weight"][0] for i in range(LEVELS))
        block2 = "body.0.body.0.block2.weight" if light else "body.0.block2.weight"
        unshuffle = UNSHUFFLE_XL if xl else UNSHUFFLE
        return cls(
            channels=channels,
            inner=inner,
            depth=depth,
            kernel=shapes[block2][2],
            hint_channels=first[1] // unshuffle**2,
            xl=xl,
        )

    @property
    def light(self) -> bool:
        return self.channels != self.inner

    @property
    def unshuffle(self) -> int:
        return UNSHUFFLE_XL if self.xl else UNSHUFFLE

    def halves(self, level: int) -> bool:
        """Whether a level works at half the size of the one before."""
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


class AdapterModel(ControlModel):
    """A full, light or SDXL adapter as the stack sees it."""

    cond_only = False
    hint_channels = 3

    def __init__(self, network: Adapter, *, name: str, dtype: torch.dtype | None = None) -> None:
        self.network, self.name = network, name
        self.dtype = next(network.parameters()).dtype if dtype is None else dtype
        config = network.config
        levels = LEVELS_OF_BLOCKS_XL if config.xl else LEVELS_OF_BLOCKS
        self.base = Base(blocks=tuple(config.channels[level] for level in levels))
        self.points = SLOTS_XL if config.xl else SLOTS
        self.soft_weights = SOFT_WEIGHTS

    def prepare(self, hint: Tensor) -> Prepared:
        """hint [N, 3, 8h, 8w] -> four feature maps. Odd sizes are padded at the right and the bottom."""
        hint = hint.to(self.dtype)
        if self.network.config.hint_channels == 1:
            hint = hint.mean(dim=1, keepdim=True)
        rest = [-side % self.network.config.unshuffle for side in hint.shape[-2:]]
        if any(rest):
            hint = F.pad(hint, (0, rest[1], 0, rest[0]), mode="replicate")
        return self.network(hint)

    def encode(self, context: Tensor) -> Prompt:
        return ()

    def __call__(
        self, step: Step, prepared: Prepared, prompt: Prompt, points: Collection[Point]
    ) -> Iterator[tuple[Point, Tensor]]:
        yield from ((point, feature) for point, feature in zip(self.points, prepared, strict=True) if point in points)


class StyleBlock(nn.Module):
    """A transformer block of CLIP's kind."""

    def __init__(self, width: int, ops: Ops) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(width, STYLE_HEADS, batch_first=True)
        self.ln_1, self.ln_2 = ops.LayerNorm(width), ops.LayerNorm(width)
        self.mlp = nn.ModuleDict({"c_fc": ops.Linear(width, 4 * width), "c_proj": ops.Linear(4 * width, width)})

    def forward(self, x: Tensor) -> Tensor:
        normed = self.ln_1(x)
        x = x + self.attn(normed, normed, normed, need_weights=False)[0]
        h = self.mlp["c_fc"](self.ln_2(x))
        return x + self.mlp["c_proj"](h * torch.sigmoid(1.702 * h))  # CLIP's approximation of GELU


class StyleAdapter(nn.Module):
    """CLIP image tokens [N, T, width] -> prompt tokens [N, count, context]."""

    def __init__(self, width: int, context: int, count: int, layers: int, ops: Ops = TORCH_OPS) -> None:
        super().__init__()
        self.transformer_layes = nn.Sequential(*(StyleBlock(width, ops) for _ in range(layers)))  # their spelling
        self.ln_pre, self.ln_post = ops.LayerNorm(width), ops.LayerNorm(width)
        self.style_embedding = nn.Parameter(torch.empty(1, count, width))
        self.proj = nn.Parameter(torch.empty(width, context))

    def forward(self, tokens: Tensor) -> Tensor:
        count = self.style_embedding.shape[1]
        x = torch.cat([tokens, self.style_embedding.expand(len(tokens), -1, -1)], dim=1)
        x = self.transformer_layes(self.ln_pre(x))
        return self.ln_post(x[:, -count:]) @ self.proj


class StyleModel(ControlModel):
    """The style adapter as the stack sees it: its hint is the last hidden state of CLIP ViT-L/14, [N, 257, 1024]."""

    cond_only = True  # an uncond prompt has no style
    hint_space = HintSpace.EMBEDDING
    points = (PROMPT,)
    soft_weights = (1.0,)

    def __init__(self, network: StyleAdapter, *, name: str, dtype: torch.dtype | None = None) -> None:
        self.network, self.name = network, name
        self.dtype = network.proj.dtype if dtype is None else dtype
        self.hint_channels, context = network.proj.shape
        self.base = Base(context=context)

    def prepare(self, hint: Tensor) -> Prepared:
        """hint [N, T, width] -> tokens [N, count, context]."""
        return (self.network(hint.to(self.dtype)),)

    def encode(self, context: Tensor) -> Prompt:
        return ()

    def __call__(
        self, step: Step, prepared: Prepared, prompt: Prompt, points: Collection[Point]
    ) -> Iterator[tuple[Point, Tensor]]:
        yield self.points[0], prepared[0]


def _halved(x: Tensor) -> Tensor:
    """Average of 2 x 2; an odd last row or column counts alone, so that the size is that of the U-Net's blocks."""
    return F.avg_pool2d(x, 2, ceil_mode=True)


def _full_body(config: AdapterConfig, ops: Ops) -> Iterator[Residual]:
    width = config.channels[0]
    for level, out in enumerate(config.channels):
        for i in range(config.depth):
            yield Residual(width, out, config.kernel, config.halves(level) and i == 0, ops)
            width = out


def _is_diffusers(names: Iterable[str]) -> bool:
    return any(name.startswith(PREFIX) or ".resnets." in name for name in names)


def _rename(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {_original_name(name, _per_level(tensors)): tensor for name, tensor in tensors.items()}


def _per_level(names: Iterable[str]) -> int:
    """Residual blocks a level in diffusers' names of a full adapter; 0 for the light one, which keeps its levels."""
    names = list(names)
    if any(name.endswith("body.0.out_conv.weight") for name in names):
        return 0
    counts = (int(name.split(".resnets.")[1].split(".")[0]) for name in names if ".resnets." in name)
    return 1 + max(counts, default=0)


def _original_name(name: str, per_level: int) -> str:
    """`adapter.body.i.resnets.j.x` -> `body.(n i + j).x`, and for the light variant `body.i.body.j.x`."""
    bare = name.removeprefix(PREFIX)
    parts = bare.split(".")
    if parts[0] != "body" or not per_level:
        return bare.replace(".resnets.", ".body.")
    if parts[2] == "resnets":
        return ".".join(["body", str(int(parts[1]) * per_level + int(parts[3])), *parts[4:]])
    if name.startswith(PREFIX):
        return ".".join(["body", str(int(parts[1]) * per_level), *parts[2:]])
    return bare


def _recognises(shapes: Shapes) -> bool:
    names = {name.removeprefix(PREFIX) for name in shapes}
    full = "conv_in.weight" in names and ({"body.0.block1.weight", "body.0.resnets.0.block1.weight"} & names)
    return bool(full) or {"body.0.in_conv.weight", "body.0.out_conv.weight"} <= names


def _layout(names: Iterable[str]) -> str:
    return "diffusers" if _is_diffusers(names) else "original"


def _base(shapes: Shapes) -> Base:
    config = AdapterConfig.from_shapes(shapes)
    levels = LEVELS_OF_BLOCKS_XL if config.xl else LEVELS_OF_BLOCKS
    return Base(blocks=tuple(config.channels[level] for level in levels))


def _create(shapes: Shapes, _settings: Mapping[str, str], kit: Kit) -> nn.Module:
    return Adapter(AdapterConfig.from_shapes(shapes), kit.ops)


def _wrap(network: nn.Module, name: str, _settings: Mapping[str, str], dtype: torch.dtype | None) -> AdapterModel:
    return AdapterModel(cast(Adapter, network), name=name, dtype=dtype)


def _style_layers(shapes: Shapes) -> int:
    return len({name.split(".")[1] for name in shapes if name.startswith("transformer_layes.")})


def _rename_style(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return dict(tensors)


def _create_style(shapes: Shapes, _settings: Mapping[str, str], kit: Kit) -> nn.Module:
    count, (width, context) = shapes["style_embedding"][1], shapes["proj"]
    return StyleAdapter(width, context, count, _style_layers(shapes), kit.ops)


def _wrap_style(network: nn.Module, name: str, _settings: Mapping[str, str], dtype: torch.dtype | None) -> StyleModel:
    return StyleModel(cast(StyleAdapter, network), name=name, dtype=dtype)


PAPER = "Mou et al., T2I-Adapter: Learning Adapters to Dig out More Controllable Ability, AAAI 2024"

FAMILY = Family(
    id="t2i-adapter",
    title="T2I-Adapter",
    paper=PAPER,
    recognises=_recognises,
    layout=_layout,
    rename=_rename,
    base=_base,
    create=_create,
    wrap=_wrap,
)

STYLE_FAMILY = Family(
    id="t2i-style",
    title="T2I-Adapter (style)",
    paper=PAPER,
    recognises=lambda shapes: "style_embedding" in shapes and "proj" in shapes,
    layout=_layout,
    rename=_rename_style,
    base=lambda shapes: Base(context=shapes["proj"][1]),
    create=_create_style,
    wrap=_wrap_style,
)
