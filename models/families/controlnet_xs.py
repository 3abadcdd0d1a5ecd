"""ControlNet-XS: a small encoder that hears from the base's encoder before each of its blocks, and answers behind it.

Zavadski, Feiden and Rother, "ControlNet-XS: Rethinking the Control of Text-to-Image Diffusion Models as Feedback-
Control Systems", ECCV 2024, in the names of diffusers' `ControlNetXSAdapter`. With the streams b of the base and c of
the control, whose block i is as deep as the base's:

    c_0 = conv_in(x) + E(hint)                  b_0 <- b_0 + out_0(c_0)
    c_i = block_i([c_(i-1), in_i(b_(i-1))])     b_i <- b_i + out_i(c_i)        encoder, then the middle alike
    before block k of the decoder               b <- b + up_k(c_(n-1-k))       past the skip

Here the control computes its block when the base's stream enters the block of the same number, where it only looks, so
that it sees what the base really goes on with. Its time embedding is the base's own.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterator, Mapping
from dataclasses import dataclass, replace
from math import gcd
from typing import Any, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...core.control import ControlModel, Prepared, Prompt
from ...core.errors import IncompatibleModelError, UnsupportedModelError
from ...core.network.base import Base, BaseWeights
from ...core.network.effects import Effect, Shift, Watch
from ...core.network.points import MIDDLE, Block, Point, onward, stream
from ...core.step import Step
from ..family import Family, Shapes
from ..layers import STANDARD_GROUPS, Kit, Ops, ResBlock, SpatialTransformer, timestep_embedding
from ..naming import to_diffusers, to_ldm
from ..settings import Settings, Whole, Word, setting
from .controlnet.config import HEADS, MOST, count_children, depth_of
from .controlnet.family import heads_of_config
from .controlnet.network import hint_encoder, run_block

T = TypeVar("T")

MARK = "control_to_base_for_conv_in.weight"
PER_LEVEL = 3  # blocks of a level: two residual ones, and the halving
MIDDLE_EPS = 1e-6  # of the middle's normalisations, diffusers' UNetMidBlock2DCrossAttn
TIMES = ("time_embed.0", "time_embed.2", "label_emb.0.0", "label_emb.0.2")  # layers of the base
FURTHER = (  # before names that no other network has: in diffusers' adapter, and here
    ("mid_block.base_to_ctrl.", "middle_in."),
    ("mid_block.ctrl_to_base.", "middle_out."),
    ("mid_block.midblock.", "mid_block."),
    ("control_to_base_for_conv_in.", "ctrl_to_base.0."),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlNetXSSettings(Settings):
    """What no shape tells; None is what is usual."""

    heads: int | None = setting(Whole(1, MOST))  # of attention, everywhere
    head_channels: int | None = setting(Whole(1, MOST))  # of the base's heads, where their number differs by level
    norm_groups: int | None = setting(Whole(1, MOST))  # at most so many, but in the middle
    hint_order: str | None = setting(Word(("rgb", "bgr")))


class Grouped:
    """Layers whose group normalisations have a number of groups by their channels, and perhaps an epsilon."""

    def __init__(self, ops: Ops, groups: Callable[[int], int], eps: float | None = None) -> None:
        self.Linear, self.Conv2d, self.LayerNorm = ops.Linear, ops.Conv2d, ops.LayerNorm
        self._ops, self._groups, self._eps = ops, groups, eps

    def GroupNorm(self, _groups: int, channels: int, eps: float) -> Any:  # noqa: N802  (the name of torch's layer)
        """Build the normalisation of so many channels."""
        return self._ops.GroupNorm(self._groups(channels), channels, eps=self._eps or eps)


class Halving(nn.Module):
    """A convolution of stride 2 from what comes in, the base's share among it, to the control's width."""

    def __init__(self, channels: int, out: int, kit: Kit) -> None:
        super().__init__()
        self.op = kit.ops.Conv2d(channels, out, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)


class ControlNetXS(nn.Module):
    """The network of a file. times: weights and biases of the base's time embedding, by name; followed: their key."""

    def __init__(self, shapes: Shapes, settings: ControlNetXSSettings, kit: Kit) -> None:
        super().__init__()
        self.times: dict[str, tuple[Tensor, Tensor]] = {}
        self.followed: Hashable = None
        ops, most = kit.ops, settings.norm_groups or STANDARD_GROUPS
        stem = [
            shapes[f"input_hint_block.{2 * i}.weight"] for i in range(count_children(shapes, "input_hint_block", 2))
        ]
        self.hint_stem = (stem[0][1], *(each[0] for each in stem))
        self.input_hint_block = hint_encoder(self.hint_stem, ops)
        self.latents, self.context = shapes["input_blocks.0.0.weight"][1], _context(shapes)
        count = count_children(shapes, "input_blocks")
        grouped = replace(kit, ops=Grouped(ops, lambda channels: _divisor(channels, most)))
        self.input_blocks = nn.ModuleList(_block(shapes, i, settings, grouped) for i in range(count))
        self.middle_block = _middle(shapes, settings, kit)
        self.base_to_ctrl = nn.ModuleList(_convolution(shapes, f"base_to_ctrl.{i}", ops) for i in range(count - 1))
        self.ctrl_to_base = nn.ModuleList(_convolution(shapes, f"ctrl_to_base.{i}", ops) for i in range(count))
        self.middle_in, self.middle_out = (_convolution(shapes, name, ops) for name in ("middle_in", "middle_out"))
        self.decoder = nn.ModuleList(_convolution(shapes, f"decoder.{i}", ops) for i in range(count))

    @property
    def blocks(self) -> list[nn.ModuleList]:
        """Return all blocks in the order in which they compute, the middle last."""
        return [*cast("list[nn.ModuleList]", list(self.input_blocks)), self.middle_block]

    @property
    def widths(self) -> tuple[int, ...]:
        """Return the channels of each level."""
        firsts = self.ctrl_to_base[1::PER_LEVEL]
        return tuple(cast(nn.Conv2d, each).weight.shape[1] for each in firsts)

    def project(self, context: Tensor) -> list[tuple[Tensor, ...]]:
        """Project the prompt [B, T, D] to keys and values for the transformers of each block; each [B, T, width]."""
        return [
            tuple(kv for layer in block if isinstance(layer, SpatialTransformer) for kv in layer.project(context))
            for block in self.blocks
        ]

    def embed(self, timestep: Tensor, y: Tensor | None, dtype: torch.dtype) -> Tensor:
        """Return the base's embedding of times [B] and vector conditions y [B, label]."""
        first = self.times[TIMES[0]][0]
        emb = self._through(TIMES[:2], timestep_embedding(timestep, first.shape[1]).to(dtype))
        return emb if TIMES[2] not in self.times or y is None else emb + self._through(TIMES[2:], y)

    def _through(self, names: Collection[str], x: Tensor) -> Tensor:
        (first, bias), (second, offset) = ((each.to(x) for each in self.times[name]) for name in names)
        return F.linear(F.silu(F.linear(x, first, bias)), second, offset)


Pass = dict[int, Tensor]  # one evaluation: the control's stream behind each of its blocks, by the block's number


class ControlNetXSModel(ControlModel):
    """A ControlNet-XS as the stack sees it."""

    network: ControlNetXS
    follows = True

    def __init__(
        self, network: ControlNetXS, *, name: str, base: Base, bgr: bool = False, dtype: torch.dtype | None = None
    ) -> None:
        self.network, self.name, self.base, self.bgr = network, name, base, bgr
        self.dtype = next(network.parameters()).dtype if dtype is None else dtype
        self._count = len(network.input_blocks)
        decoder = (Point(Block.OUTPUT, i) for i in range(self._count - 1))
        self.points = (*(stream(i) for i in range(self._count)), MIDDLE, *decoder)
        self.soft_weights = (1.0,) * len(self.points)
        self.hint_channels = cast(nn.Conv2d, network.input_hint_block[0]).weight.shape[1]

    @property
    def followed(self) -> Hashable:
        return self.network.followed

    @torch.no_grad()
    def follow(self, base: BaseWeights) -> bool:
        """Take the base's time embedding; return whether that was to be done."""
        if base.key == self.network.followed:
            return False
        self.network.followed, self.network.times = None, {}
        like = next(self.network.parameters())
        for name in TIMES:
            weight, bias = base.read(f"{name}.weight"), base.read(f"{name}.bias")
            if weight is not None and bias is not None:
                self.network.times[name] = (weight.detach().to(like, copy=True), bias.detach().to(like, copy=True))
        if TIMES[0] not in self.network.times or TIMES[1] not in self.network.times:
            raise IncompatibleModelError(
                f"'{self.name}' reads the time as {self.base.name} does, and the loaded base model has no such time "
                "embedding: load the base that it was made for"
            )
        self.network.followed = base.key
        return True

    def prepare(self, hint: Tensor) -> Prepared:
        """Compute the features [N, channels, h, w] of a hint [N, hint_channels, 8h, 8w]."""
        return (self.network.input_hint_block((hint.flip(1) if self.bgr else hint).to(self.dtype)),)

    def encode(self, context: Tensor) -> Prompt:
        """Project the context [B, T, D] to keys and values of every transformer block."""
        return tuple(each for block in self.network.project(context.to(self.dtype)) for each in block)

    def __call__(
        self, step: Step, prepared: Prepared, prompt: Prompt, points: Collection[Point]
    ) -> Iterator[tuple[Point, Effect]]:
        """Yield looks at what enters each block, in which the control computes, and what it answers."""
        network, prompts = self.network, self._by_block(prompt)
        y = None if step.y is None else step.y.to(self.dtype)
        emb = network.embed(step.timestep, y, self.dtype)
        first = cast(nn.ModuleList, network.input_blocks[0])[0](step.x[:, : network.latents].to(self.dtype))
        state: Pass = {0: first + prepared[0]}
        if stream(0) in points:
            yield stream(0), network.ctrl_to_base[0](state[0])
        for index, block in enumerate(network.blocks[1:], start=1):
            yield onward(index - 1), Watch(self._advance(state, index, block, emb, prompts[index]))
        for point in self.points[1:]:
            if point in points:
                yield point, Shift(self._answer(state, point))

    def _by_block(self, prompt: Prompt) -> list[tuple[Tensor, ...]]:
        """Return keys and values block by block."""
        left, found = iter(prompt), list[tuple[Tensor, ...]]()
        for block in self.network.blocks:
            layers = [layer for layer in block if isinstance(layer, SpatialTransformer)]
            found.append(tuple(next(left) for layer in layers for _ in range(2 * len(layer.transformer_blocks))))
        return found

    def _advance(
        self, state: Pass, index: int, block: nn.ModuleList, emb: Tensor, prompt: tuple[Tensor, ...]
    ) -> Callable[[Tensor], None]:
        """Return what computes a block of the control when the base's stream enters its own block of that number.

        It may be called again with the same, as it is where blocks of the base are computed again for gradients.
        """
        network = self.network
        entering = network.middle_in if index == self._count else network.base_to_ctrl[index - 1]

        def advance(h: Tensor) -> None:
            joined = torch.cat([state[index - 1], cast(Tensor, entering(h.to(self.dtype)))], dim=1)
            state[index] = run_block(block, joined, emb, iter(prompt))

        return advance

    def _answer(self, state: Pass, point: Point) -> Callable[[Tensor], Tensor]:
        """Return what the control adds at a point, once it has come there."""
        network, last = self.network, self._count - 1

        def answer(_: Tensor) -> Tensor:
            if point.block is Block.INPUT:
                return network.ctrl_to_base[point.index](state[point.index])
            if point == MIDDLE:
                return network.middle_out(state[self._count]) + network.decoder[0](state[last])
            return network.decoder[point.index + 1](state[last - 1 - point.index])

        return answer


class ControlNetXSFamily(Family[ControlNetXS, ControlNetXSSettings]):
    """Adapters in diffusers' names."""

    id, title, settings = "controlnet-xs", "ControlNet-XS", ControlNetXSSettings
    bases, paper = "SD 1.x, SD 2.x, SDXL", "Zavadski et al., ECCV 2024"

    def detect(self, shapes: Shapes) -> bool:
        return MARK in shapes and "down_blocks.0.base_to_ctrl.0.weight" in shapes and "conv_in.weight" in shapes

    def layout(self, names: Collection[str]) -> str:
        return "diffusers"

    def rename(self, named: Mapping[str, T]) -> dict[str, T]:
        return to_ldm({_renamed(name): each for name, each in named.items()})

    def of_config(self, config: Mapping[str, Any]) -> dict[str, object]:
        """Return what the weights do not show; heads are counted on the base's widths."""
        heads = {**config, "block_out_channels": config.get("base_block_out_channels"), "attention_head_dim": None}
        settings = {"norm_groups": config.get("max_norm_num_groups"), **heads_of_config(heads)}
        return settings | {"hint_order": config.get("conditioning_channel_order")}

    def unsaid(self) -> ControlNetXSSettings:
        return ControlNetXSSettings(heads=1, norm_groups=1)

    def base(self, shapes: Shapes) -> Base:
        return _base(shapes)

    def create(self, shapes: Shapes, settings: ControlNetXSSettings, kit: Kit) -> ControlNetXS:
        if any(name.startswith("time_embed.") for name in shapes):
            raise UnsupportedModelError(
                "it is a ControlNet-XS with a time embedding of its own, which changes the base model's and is not "
                "supported: use one that was trained with learn_time_embedding=False"
            )
        return ControlNetXS(shapes, settings, kit)

    def wrap(
        self, network: ControlNetXS, name: str, settings: ControlNetXSSettings, dtype: torch.dtype | None
    ) -> ControlNetXSModel:
        shapes = {key: tuple(each.shape) for key, each in network.state_dict().items()}
        bgr = settings.hint_order == "bgr"
        return ControlNetXSModel(network, name=name, base=_base(shapes), bgr=bgr, dtype=dtype)


FAMILY = ControlNetXSFamily()


def adapter_names(state: Mapping[str, T]) -> dict[str, T]:
    """Return the weights of a network by the names of diffusers' adapter: the inverse of the family's `rename`."""
    return {_of_adapter(name): each for name, each in to_diffusers(state).items()}


def _renamed(name: str) -> str:
    """Return a name as our network has it, or as diffusers' ControlNet has the same layer."""
    for theirs, ours in FURTHER:
        if name.startswith(theirs):
            return ours + name[len(theirs) :]
    parts = name.split(".")
    if parts[0] == "up_connections" and parts[2:3] == ["ctrl_to_base"]:
        return ".".join(("decoder", str(PER_LEVEL * int(parts[1]) + int(parts[3])), *parts[4:]))
    if parts[0] == "down_blocks" and parts[2] in ("base_to_ctrl", "ctrl_to_base"):
        number = PER_LEVEL * int(parts[1]) + int(parts[3]) + (parts[2] == "ctrl_to_base")
        return ".".join((parts[2], str(number), *parts[4:]))
    if parts[0] == "down_blocks" and parts[2:4] == ["downsamplers", "conv"]:
        return ".".join((*parts[:3], "0", *parts[3:]))
    return name


def _of_adapter(name: str) -> str:
    """Return the adapter's name of a weight: `name` is ours, or that of the same layer in diffusers' ControlNet."""
    for theirs, ours in FURTHER:
        if name.startswith(ours):
            return theirs + name[len(ours) :]
    first, *rest = parts = name.split(".")
    if first == "decoder":
        level, number = divmod(int(rest[0]), PER_LEVEL)
        return ".".join((f"up_connections.{level}.ctrl_to_base.{number}", *rest[1:]))
    if first in ("base_to_ctrl", "ctrl_to_base"):
        level, number = divmod(int(rest[0]) - (first == "ctrl_to_base"), PER_LEVEL)
        return ".".join((f"down_blocks.{level}.{first}.{number}", *rest[1:]))
    return ".".join((*parts[:3], *parts[4:])) if parts[2:3] == ["downsamplers"] else name


def _base(shapes: Shapes) -> Base:
    """Return the base model of a network of these shapes, by its own names."""
    widths = tuple(shapes[f"ctrl_to_base.{i}.weight"][0] for i in range(count_children(shapes, "ctrl_to_base")))
    return Base(context=_context(shapes), blocks=widths)


def _context(shapes: Shapes) -> int:
    return next(shape[1] for name, shape in shapes.items() if name.endswith(".attn2.to_k.weight"))


def _divisor(channels: int, most: int) -> int:
    """Return the largest divisor of a number of channels that is at most so large."""
    return next(groups for groups in range(min(most, channels), 0, -1) if channels % groups == 0)


def _convolution(shapes: Shapes, name: str, ops: Ops) -> nn.Module:
    out, width = shapes[f"{name}.weight"][:2]
    return ops.Conv2d(width, out, 1)


def _block(shapes: Shapes, index: int, settings: ControlNetXSSettings, kit: Kit) -> nn.ModuleList:
    """Build an input block of the control."""
    name = f"input_blocks.{index}"
    if index == 0:
        out, width = shapes[f"{name}.0.weight"][:2]
        return nn.ModuleList([kit.ops.Conv2d(width, out, 3, padding=1)])
    if f"{name}.0.op.weight" in shapes:
        out, width = shapes[f"{name}.0.op.weight"][:2]
        return nn.ModuleList([Halving(width, out, kit)])
    layers: list[nn.Module] = [_residual(shapes, f"{name}.0", kit)]
    if depth := depth_of(shapes, f"{name}.1"):
        layers.append(_transformer(shapes, f"{name}.1", f"ctrl_to_base.{index}", depth, settings, kit))
    return nn.ModuleList(layers)


def _middle(shapes: Shapes, settings: ControlNetXSSettings, kit: Kit) -> nn.ModuleList:
    """Build the middle block, whose groups diffusers does not bound by the configuration: they are always up to 32."""
    out, width = shapes["middle_block.0.in_layers.2.weight"][:2]
    groups = _divisor(gcd(out, width), STANDARD_GROUPS)
    own = replace(kit, ops=Grouped(kit.ops, lambda _: groups, MIDDLE_EPS))
    name, depth = "middle_block", depth_of(shapes, "middle_block.1")
    layers: list[nn.Module] = [_residual(shapes, f"{name}.{i}", own) for i in (0, 2)]
    if depth:
        layers.insert(1, _transformer(shapes, f"{name}.1", "middle_out", depth, settings, own))
    return nn.ModuleList(layers)


def _residual(shapes: Shapes, name: str, kit: Kit) -> ResBlock:
    out, width = shapes[f"{name}.in_layers.2.weight"][:2]
    return ResBlock(width, out, shapes[f"{name}.emb_layers.1.weight"][1], kit)


def _transformer(
    shapes: Shapes, name: str, beside: str, depth: int, settings: ControlNetXSSettings, kit: Kit
) -> SpatialTransformer:
    """Build a transformer. beside: the convolution to the base's stream of the same block, which tells its width."""
    projection = shapes[f"{name}.proj_in.weight"]
    inner, width = projection[:2]
    context = _context(shapes)
    heads = _heads(settings, context, shapes[f"{beside}.weight"][0])
    if not heads or inner % heads:
        raise ValueError(f"an attention {inner} wide has no {heads} heads of one width")
    return SpatialTransformer(width, context, depth, heads, len(projection) == 2, kit, inner=inner)


def _heads(settings: ControlNetXSSettings, context: int, base_width: int) -> int:
    """Return how many heads an attention has: as many as the base's at that width."""
    number, channels = settings.heads, settings.head_channels
    if number is None and channels is None:
        if context not in HEADS:
            raise UnsupportedModelError(
                f"the context width is {context}, expected one of {', '.join(map(str, HEADS))}: for another base model "
                "give the setting 'heads' or 'head_channels' in the file's metadata or in a JSON file beside it"
            )
        number, channels = HEADS[context]
    return number if number is not None else base_width // (channels or base_width)
