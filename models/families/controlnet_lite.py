"""ControlNet-Lite: plain convolutions in place of the trainable copy, the ablation of the ControlNet paper (figure 8c).

One normalised convolution stands for each residual block of the base's encoder; there is no attention, and neither the
prompt nor the time is read. Hint encoder and zero convolutions are those of a ControlNet. Parameter names are those of
the public re-implementation (xyfJASON/ctrlora, `cldm/cldm_lite.py`), whose residuals are added to the encoder's stream;
the paper leaves them at the skips, as ours are, and a setting in the file tells the two apart.

    h_0 = conv_in(x) + E(hint)
    h_i = conv_i(silu(norm(h_(i-1)))), or a halving      residual i: zero_conv_i(h_i)
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar, cast

import torch
from torch import Tensor, nn

from ...core.control import ControlModel, Prepared, Prompt
from ...core.network.base import Base
from ...core.network.points import MIDDLE, Point, skip, stream
from ...core.network.rows import Twins
from ...core.step import Step
from ..family import Family, Shapes
from ..layers import RESNET_EPS, STANDARD_GROUPS, Downsample, Kit
from ..settings import Settings, Whole, Word, setting
from .controlnet.config import MOST, STANDARD_HINT_STEM, count_children
from .controlnet.family import PREFIX
from .controlnet.network import hint_encoder

T = TypeVar("T")

SKIPS, STREAM = "skips", "stream"  # where the residuals are added


@dataclass(frozen=True, slots=True, kw_only=True)
class LiteSettings(Settings):
    """What no shape tells; None is what the public re-implementation does."""

    norm_groups: int | None = setting(Whole(1, MOST))
    residuals: str | None = setting(Word((SKIPS, STREAM)))


@dataclass(frozen=True, slots=True, kw_only=True)
class LiteConfig:
    """The hyperparameters. widths: channels of the input blocks; halvings: the numbers of those that halve the size."""

    widths: tuple[int, ...]
    halvings: frozenset[int]
    latent_channels: int = 4
    groups: int = STANDARD_GROUPS
    hint_channels: int = 3
    hint_stem: tuple[int, ...] = STANDARD_HINT_STEM

    @classmethod
    def from_shapes(cls, shapes: Shapes, settings: LiteSettings) -> LiteConfig:
        """Read the configuration from the shapes of bare names."""
        count = count_children(shapes, "input_blocks")
        halvings = frozenset(i for i in range(1, count) if f"input_blocks.{i}.0.op.weight" in shapes)
        convolutions = [
            shapes[f"input_blocks.{i}.{'0.op' if i in halvings else '2' if i else '0'}.weight"] for i in range(count)
        ]
        stem = [
            shapes[f"input_hint_block.{2 * i}.weight"] for i in range(count_children(shapes, "input_hint_block", 2))
        ]
        return cls(
            widths=tuple(shape[0] for shape in convolutions),
            halvings=halvings,
            latent_channels=convolutions[0][1],
            groups=settings.norm_groups or STANDARD_GROUPS,
            hint_channels=stem[0][1],
            hint_stem=tuple(shape[0] for shape in stem[:-1]),
        )


class ControlNetLite(nn.Module):
    """The network, with bare parameter names."""

    def __init__(self, config: LiteConfig, kit: Kit) -> None:
        super().__init__()
        self.config, ops = config, kit.ops
        widths = config.widths
        self.input_hint_block = hint_encoder((config.hint_channels, *config.hint_stem, widths[0]), ops)
        self.input_blocks = nn.ModuleList(_blocks(config, kit))
        self.middle_block = _layer(widths[-1], widths[-1], config, kit)
        self.zero_convs = nn.ModuleList(nn.Sequential(ops.Conv2d(width, width, 1)) for width in widths)
        self.middle_block_out = nn.Sequential(ops.Conv2d(widths[-1], widths[-1], 1))

    def residuals(self, x: Tensor, features: Tensor, count: int) -> Iterator[Tensor]:
        """Yield the first `count` residuals [B, C, h', w'], the last of all that of the middle.

        x [B, C, h, w], features [1 or B, channels, h, w] from the hint encoder.
        """
        h = x
        for i, (block, zero_conv) in enumerate(zip(self.input_blocks, self.zero_convs, strict=True)):
            if i == count:
                return
            h = block(h) + features if i == 0 else block(h)
            yield zero_conv(h)
        if count > len(self.input_blocks):
            yield self.middle_block_out(self.middle_block(h))


def _blocks(config: LiteConfig, kit: Kit) -> Iterator[nn.Module]:
    yield nn.Sequential(kit.ops.Conv2d(config.latent_channels, config.widths[0], 3, padding=1))
    for i in range(1, len(config.widths)):
        before, width = config.widths[i - 1 : i + 1]
        yield nn.Sequential(Downsample(before, kit)) if i in config.halvings else _layer(before, width, config, kit)


def _layer(channels: int, width: int, config: LiteConfig, kit: Kit) -> nn.Sequential:
    """Build normalisation, SiLU and a 3x3 convolution."""
    norm = kit.ops.GroupNorm(config.groups, channels, eps=RESNET_EPS)
    return nn.Sequential(norm, nn.SiLU(), kit.ops.Conv2d(channels, width, 3, padding=1))


class LiteModel(ControlModel):
    """A ControlNet-Lite as the stack sees it. residuals: SKIPS, or STREAM as in the public re-implementation."""

    def __init__(
        self, network: ControlNetLite, *, name: str, residuals: str = STREAM, dtype: torch.dtype | None = None
    ) -> None:
        self.network, self.name = network, name
        self.dtype = next(network.parameters()).dtype if dtype is None else dtype
        widths = network.config.widths
        place = skip if residuals == SKIPS else stream
        self.base = Base(blocks=widths)
        self.points = (*(place(i) for i in range(len(widths))), MIDDLE)
        self.soft_weights = (1.0,) * len(self.points)
        self.hint_channels = network.config.hint_channels

    def prepare(self, hint: Tensor) -> Prepared:
        """Compute the features [N, channels, h, w] of a hint [N, hint_channels, 8h, 8w]."""
        return (self.network.input_hint_block(hint.to(self.dtype)),)

    def __call__(
        self, step: Step, prepared: Prepared, prompt: Prompt, points: Collection[Point]
    ) -> Iterator[tuple[Point, Tensor]]:
        """Yield the residual of each wanted point. Rows of one picture are computed once: no prompt is read."""
        x = step.x[:, : self.network.config.latent_channels].to(self.dtype)
        features, twins = prepared[0], step.twins()
        if twins is not None:
            x, features = twins.narrow(x), twins.narrow(features)
        count = 1 + max((self.points.index(point) for point in points), default=-1)
        network = cast(ControlNetLite, self.network)
        for point, residual in zip(self.points, network.residuals(x, features, count), strict=False):
            if point in points:
                yield point, _widened(residual, twins)


def _widened(residual: Tensor, twins: Twins | None) -> Tensor:
    return residual if twins is None else twins.widen(residual)


class LiteFamily(Family[ControlNetLite, LiteSettings]):
    """ControlNet-Lite in its original names, bare or inside a training checkpoint."""

    id, title, settings = "controlnet-lite", "ControlNet-Lite", LiteSettings
    bases, paper = "SD 1.x, SD 2.x, SDXL", "Zhang et al., ICCV 2023, figure 8c"

    def detect(self, shapes: Shapes) -> bool:
        return any(is_lite(shapes, prefix) for prefix in ("", PREFIX))

    def rename(self, named: Mapping[str, T]) -> dict[str, T]:
        """Return bare names; the original's time embedding, which nothing reads, is left out."""
        prefixed = {key[len(PREFIX) :]: each for key, each in named.items() if key.startswith(PREFIX)}
        return {key: each for key, each in (prefixed or named).items() if not key.startswith("time_embed.")}

    def unsaid(self) -> LiteSettings:
        return LiteSettings(norm_groups=1)

    def base(self, shapes: Shapes) -> Base:
        return Base(blocks=LiteConfig.from_shapes(shapes, self.unsaid()).widths)

    def create(self, shapes: Shapes, settings: LiteSettings, kit: Kit) -> ControlNetLite:
        return ControlNetLite(LiteConfig.from_shapes(shapes, settings), kit)

    def wrap(self, network: ControlNetLite, name: str, settings: LiteSettings, dtype: torch.dtype | None) -> LiteModel:
        return LiteModel(network, name=name, residuals=settings.residuals or STREAM, dtype=dtype)


FAMILY = LiteFamily()


def is_lite(shapes: Shapes, prefix: str = "") -> bool:
    """Return whether names are those of a ControlNet-Lite: a convolution where a ControlNet has a residual block."""
    named = ("input_hint_block.0.weight", "zero_convs.0.0.weight", "input_blocks.1.2.weight", "middle_block.2.weight")
    return all(prefix + name in shapes for name in named)
