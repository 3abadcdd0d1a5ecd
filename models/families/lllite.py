"""ControlLLLite: for each projection of attention a small network that shifts what the projection receives.

kohya-ss, ControlLLLite, 2023, for SDXL; the files of bdsqlsz (qinglong) have the same form. Beside a projection of x
[B, N, C], the module's own embedding e of the hint, which does not depend on the step, says what is added:

    x + up(mid([e, down(x)]))        down and mid end in ReLU; e = conditioning1(hint), one vector per token

Hints are pictures in [-1, 1]. A module's name says where its projection is:

    lllite_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...core.control import ControlModel, Prepared, Prompt
from ...core.errors import DamagedModelError, HintError, IncompatibleModelError
from ...core.network.base import SDXL_CONTEXT, Base
from ...core.network.effects import Effect, Shift
from ...core.network.points import Block, Part, Point
from ...core.step import Step
from ..family import Family, Shapes
from ..guard import shown
from ..layers import Kit
from ..settings import Settings

START = "lllite_unet_"
STEM = "conditioning1"
STRIDES = {1: (4, 2), 2: (4, 4), 3: (4, 4, 2)}  # of the embedding's convolutions, by depth; each is as large as it
XL_WIDTH, XL_BLOCK = 640, 4  # of SDXL's first level with attention
PLACE = re.compile(
    r"lllite_unet_(?:(input|output)_blocks_(\d+)|(middle)_block)_1_transformer_blocks_(\d+)_(attn[12])_to_([qkv])"
)


@dataclass(frozen=True, slots=True)
class Widths:
    """Of one module: its projection's input, the embedding of the hint, and what is between."""

    inner: int
    embedding: int
    mlp: int
    strides: tuple[int, ...]
    channels: tuple[int, ...]  # of the hint, and behind each convolution

    @classmethod
    def of(cls, name: str, shapes: Shapes) -> Widths:
        """Read them from the shapes below a module's name."""
        second = shapes[f"{name}.{STEM}.2.weight"]
        depth = 3 if f"{name}.{STEM}.4.weight" in shapes else 2 if second[-1] == STRIDES[2][1] else 1
        convolutions = [shapes[f"{name}.{STEM}.{2 * i}.weight"] for i in range(len(STRIDES[depth]))]
        mlp, inner = shapes[f"{name}.down.0.weight"]
        channels = (convolutions[0][1], *(each[0] for each in convolutions))
        return cls(inner, channels[-1], mlp, STRIDES[depth], channels)


class Module(nn.Module):
    """Beside one projection."""

    def __init__(self, widths: Widths, kit: Kit) -> None:
        super().__init__()
        ops, layers = kit.ops, list[nn.Module]()
        self.inner, self.stride = widths.inner, prod(widths.strides)
        for i, stride in enumerate(widths.strides):
            layers += [ops.Conv2d(*widths.channels[i : i + 2], stride, stride=stride), nn.ReLU()]
        self.conditioning1 = nn.Sequential(*layers[:-1])
        self.down = nn.Sequential(ops.Linear(widths.inner, widths.mlp), nn.ReLU())
        self.mid = nn.Sequential(ops.Linear(widths.mlp + widths.embedding, widths.mlp), nn.ReLU())
        self.up = nn.Sequential(ops.Linear(widths.mlp, widths.inner))

    def embed(self, hint: Tensor) -> Tensor:
        """Compute the embedding [N, tokens, E] of a hint [N, 3, H, W] in [-1, 1]."""
        return self.conditioning1(hint).flatten(2).transpose(1, 2)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Return what is added to x [B, N, C]; embedding [1 or B, N, E]."""
        return self.up(self.mid(torch.cat([embedding.expand(len(x), -1, -1), self.down(x)], dim=-1)))


class ControlLLLite(nn.Module):
    """All modules, by their names in the file."""

    def __init__(self, shapes: Shapes, kit: Kit) -> None:
        super().__init__()
        self.names = _names(shapes)
        for name in self.names:
            self.add_module(name, Module(Widths.of(name, shapes), kit))

    @property
    def parts(self) -> list[tuple[Point, Module]]:
        """Return the modules with their points, in the order in which the base network computes."""
        found = [(_point(name), cast(Module, getattr(self, name))) for name in self.names]
        return sorted(found, key=lambda pair: _order(pair[0]))


class ControlLLLiteModel(ControlModel):
    """A ControlLLLite as the stack sees it."""

    def __init__(self, network: ControlLLLite, *, name: str, dtype: torch.dtype | None = None) -> None:
        self.network, self.name = network, name
        self.dtype = next(network.parameters()).dtype if dtype is None else dtype
        self._parts = network.parts
        self.points = tuple(point for point, _ in self._parts)
        self.soft_weights = (1.0,) * len(self.points)
        self.base = _base([(point, module.inner) for point, module in self._parts])

    def prepare(self, hint: Tensor) -> Prepared:
        """Compute each module's embedding of the hint [N, 3, H, W] in 0..1, once for a run."""
        signed = (hint * 2 - 1).to(self.dtype)
        return tuple(module.embed(_padded(signed, module.stride)) for _, module in self._parts)

    def __call__(
        self, step: Step, prepared: Prepared, prompt: Prompt, points: Collection[Point]
    ) -> Iterator[tuple[Point, Effect]]:
        """Yield the shift at each wanted projection."""
        for (point, module), embedding in zip(self._parts, prepared, strict=True):
            if point in points:
                yield point, Shift(partial(self._shift, module, embedding))

    def _shift(self, module: Module, embedding: Tensor, x: Tensor) -> Tensor:
        if x.shape[-1] != module.inner:
            raise IncompatibleModelError(
                f"'{self.name}' shifts {module.inner} channels where the base model has {x.shape[-1]}: load the base "
                "that it was trained with"
            )
        if x.shape[1] != embedding.shape[1]:
            raise HintError(
                f"'{self.name}' has {embedding.shape[1]} tokens of the hint for {x.shape[1]} of the picture: leave out "
                "what changes their number (merged tokens, deep shrink)"
            )
        return module(x.to(self.dtype), embedding).to(x.dtype)


class ControlLLLiteFamily(Family[ControlLLLite, Settings]):
    """ControlLLLite for the U-Nets of SD and SDXL, in kohya's names."""

    id, title, settings = "lllite", "ControlLLLite", Settings
    bases, paper = "SDXL", "kohya-ss, 2023"

    def detect(self, shapes: Shapes) -> bool:
        return any(PLACE.fullmatch(name.partition(".")[0]) for name in shapes if name.startswith(START))

    def base(self, shapes: Shapes) -> Base:
        return _base([(_point(name), shapes[f"{name}.down.0.weight"][1]) for name in _names(shapes)])

    def create(self, shapes: Shapes, settings: Settings, kit: Kit) -> ControlLLLite:
        return ControlLLLite(shapes, kit)

    def wrap(
        self, network: ControlLLLite, name: str, settings: Settings, dtype: torch.dtype | None
    ) -> ControlLLLiteModel:
        return ControlLLLiteModel(network, name=name, dtype=dtype)


FAMILY = ControlLLLiteFamily()


def _names(shapes: Shapes) -> list[str]:
    """Return the names of the modules in a file; DamagedModelError for one that names no place."""
    names = sorted({name.partition(".")[0] for name in shapes if name.startswith(START)})
    if wrong := next((name for name in names if not PLACE.fullmatch(name)), None):
        raise DamagedModelError(f"'{shown(wrong)}' names no projection of a U-Net's attention: get the file again")
    return names


def _point(name: str) -> Point:
    """Return where a module acts."""
    found = PLACE.fullmatch(name)
    assert found is not None
    side, index, middle, depth, attention, value = found.groups()
    return Point(Block(middle or side), int(index or 0), Part(f"{attention}.{value}"), int(depth))


def _order(point: Point) -> tuple[int, int, int, str]:
    return list(Block).index(point.block), point.index, point.depth, point.part.value


def _base(widths: Sequence[tuple[Point, int]]) -> Base:
    """Return the base model of modules with these inputs: SDXL's second level is 640 wide and has two transformers."""
    xl = any(width == XL_WIDTH and point.depth and point.index == XL_BLOCK for point, width in widths)
    return Base(context=SDXL_CONTEXT if xl else None)


def _padded(hint: Tensor, stride: int) -> Tensor:
    """Return a hint with its edges repeated up to whole tokens: a U-Net rounds the sides of its maps up."""
    down, right = (-side % stride for side in hint.shape[-2:])
    return F.pad(hint, (0, right, 0, down), mode="replicate") if down or right else hint
