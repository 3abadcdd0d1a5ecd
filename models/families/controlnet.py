"""ControlNet: a trainable copy of the U-Net's encoder whose outputs pass zero convolutions into the skips.

Zhang, Rao and Agrawala, "Adding Conditional Control to Text-to-Image Diffusion Models", ICCV 2023, section 3. For SD
1.x, SD 2.x and SDXL, including the SDXL variants with fewer or no transformer blocks. The parameter names are those of
lllyasviel/ControlNet (`cldm/cldm.py`); every width is read from the shapes of a file.

    h_0 = conv_in(x) + E(hint)        E does not depend on the step, so it is a separate call
    h_i = block_i(h_(i-1))            residual of skip i: zero_conv_i(h_i)
    middle(h_n)                       residual of the middle: zero_conv(middle(h_n))
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from ...core.control import ControlModel, Prepared, Prompt
from ...core.errors import ModelError, UnsupportedModelError
from ...core.network.base import SD1_CONTEXT, SD2_CONTEXT, SDXL_CONTEXT, Base
from ...core.network.points import MIDDLE, Point, skip
from ...core.network.rows import Twins
from ...core.options import Option
from ...core.step import Step
from ..companions import companion_of, read_delta
from ..family import Family, Shapes
from ..files.loading import Header
from ..guard import shown
from ..layers import (
    STANDARD_GROUPS,
    TORCH_OPS,
    Attention,
    Downsample,
    Kit,
    Ops,
    ResBlock,
    Rows,
    SpatialTransformer,
    as_it_is,
    attend,
    timestep_embedding,
)
from ..naming import to_ldm
from ..settings import FileName, Settings, Truth, Whole, Word, setting

FIRST = "input_blocks.0.0.weight"  # the convolution that reads the latents
PREFIX = "control_model."  # of the control model in a training checkpoint of the original code
TASKS = "task_embedding"  # of a union: a row for each kind of hint
SOFT_BASE = 0.825  # guess mode, lllyasviel/ControlNet gradio_canny2image.py: strength * 0.825 ** (12 - i)
SOFT_LENGTH = 13  # the list belongs to SD 1.x; for SDXL sd-webui-controlnet cuts it to 10, and users rely on that
STANDARD_HINT_STEM = (16, 16, 32, 32, 96, 96, 256)  # channels of the hint encoder, cldm.py `input_hint_block`
# Attention heads leave no trace in the shapes. SD 1.x has 8 of them, its successors make them 64 channels wide.
HEADS: dict[int, tuple[int | None, int | None]] = {
    SD1_CONTEXT: (8, None),
    SD2_CONTEXT: (None, 64),
    SDXL_CONTEXT: (None, 64),
}
CONTEXT = Option(  # InstantID's ControlNet has the names and shapes of any other for SDXL
    name="context",
    label="Context",
    meaning="what it reads beside the hint: the prompt, or the tokens of the unit with InstantID's adapter (face)",
    default="prompt",
    words={"prompt": (), "face": ("Instant-ID",)},
    of_hint=True,
)
MOST = 4096  # heads, channels or groups; no network is as wide as their product

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlNetSettings(Settings):
    """What no shape tells; None is what is usual."""

    heads: int | None = setting(Whole(1, MOST))  # of attention
    head_channels: int | None = setting(Whole(1, MOST))  # of one head, where their number differs by level
    norm_groups: int | None = setting(Whole(1, MOST))
    only_middle: bool | None = setting(Truth())  # the zero convolutions of the skips were never trained
    global_average_pooling: bool | None = setting(Truth())  # residuals carry no position
    hint_order: str | None = setting(Word(("rgb", "bgr")))
    companion: str | None = setting(FileName())  # what was added to the base's weights, beside the file


@dataclass(frozen=True, slots=True)
class Block:
    """One input block after the first: a residual block with `depth` transformer blocks, or a halving of the size."""

    channels: int
    depth: int = 0
    down: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlNetConfig:
    """The hyperparameters of a ControlNet."""

    channels: int  # of the first block
    latent_channels: int = 4
    blocks: tuple[Block, ...]
    middle_depth: int  # transformer blocks in the middle; 0: none
    middle_second: bool = True  # False: the middle is one residual block (SDXL small)
    context: int | None  # width of a prompt token; None: the network has no cross-attention
    label: int | None = None  # width of the vector condition y
    linear: bool = False  # linear projections around the transformers
    heads: int | None = None
    head_channels: int | None = None
    groups: int = STANDARD_GROUPS
    hint_channels: int = 3
    hint_stem: tuple[int, ...] = STANDARD_HINT_STEM
    only_middle: bool = False  # the zero convolutions of the skips were never trained (cldm `only_mid_control`)

    @classmethod
    def from_shapes(cls, shapes: Shapes, settings: ControlNetSettings | None = None) -> ControlNetConfig:
        """Read the configuration from the shapes of bare ldm keys.

        shapes: of a ControlNet, or of a U-Net from which one is to be made (the hint encoder is then the standard one).
        settings: what no shape tells.
        """
        given = settings or ControlNetSettings()
        context = _context(shapes)
        heads, head_channels = _heads(given, context)
        channels, latent_channels = shapes["input_blocks.0.0.weight"][:2]
        stem = tuple(
            shapes[f"input_hint_block.{2 * i}.weight"] for i in range(count_children(shapes, "input_hint_block", 2))
        )
        config = cls(
            channels=channels,
            latent_channels=latent_channels,
            blocks=tuple(_blocks(shapes)),
            middle_depth=depth_of(shapes, "middle_block.1"),
            middle_second="middle_block.2.in_layers.0.weight" in shapes,
            context=context,
            label=shapes["label_emb.0.0.weight"][1] if "label_emb.0.0.weight" in shapes else None,
            linear=any(len(shape) == 2 for key, shape in shapes.items() if key.endswith(".proj_in.weight")),
            heads=heads,
            head_channels=head_channels,
            groups=given.norm_groups or STANDARD_GROUPS,
            hint_channels=stem[0][1] if stem else 3,
            hint_stem=tuple(shape[0] for shape in stem[:-1]) or STANDARD_HINT_STEM,
            only_middle=bool(given.only_middle),
        )
        _check_divisors(config)
        return config

    def heads_of(self, width: int) -> int:
        """Return how many attention heads a transformer of this width has."""
        return self.heads if self.heads is not None else width // (self.head_channels or width)


class ControlNet(nn.Module):
    """The network, with bare ldm parameter names."""

    def __init__(self, config: ControlNetConfig, ops: Ops = TORCH_OPS, attention: Attention = attend) -> None:
        super().__init__()
        self.config = config
        kit, emb = Kit(ops, attention, config.groups), config.channels * 4
        self.time_embed = nn.Sequential(ops.Linear(config.channels, emb), nn.SiLU(), ops.Linear(emb, emb))
        if config.label is not None:
            label = nn.Sequential(ops.Linear(config.label, emb), nn.SiLU(), ops.Linear(emb, emb))
            self.label_emb = nn.Sequential(label)
        self.input_hint_block = hint_encoder((config.hint_channels, *config.hint_stem, config.channels), ops)
        self.input_blocks = nn.ModuleList(_input_blocks(config, kit))
        self.middle_block = nn.ModuleList(_middle(config, kit))
        widths = (config.channels, *(block.channels for block in config.blocks))
        self.zero_convs = nn.ModuleList(nn.Sequential(ops.Conv2d(width, width, 1)) for width in widths)
        self.middle_block_out = nn.Sequential(ops.Conv2d(widths[-1], widths[-1], 1))

    def project(self, context: Tensor) -> Prompt:
        """Project the prompt [B, T, D] to keys and values for every transformer block in turn; each [B, T, width]."""
        layers = (layer for block in (*self.input_blocks, self.middle_block) for layer in cast(nn.ModuleList, block))
        return tuple(kv for layer in layers if isinstance(layer, SpatialTransformer) for kv in layer.project(context))

    def residuals(
        self,
        x: Tensor,
        timestep: Tensor,
        features: Tensor,
        prompt: Prompt,
        y: Tensor | None,
        points: Collection[Point],
        twins: Twins | None = None,
        kinds: Tensor | None = None,
    ) -> Iterator[tuple[Point, Tensor]]:
        """Compute block by block and yield the wanted residuals; blocks below the last wanted one never run.

        x [B, C, h, w], timestep [B], features [1 or B, channels, h, w] from the hint encoder, y [B, label].
        twins: rows with the same x, timestep, features and y; they are one row until the prompt sets them apart.
        kinds: [1 or B, 4 channels] beside the time's embedding, what a union says about its hints.
        """
        widen = as_it_is
        if twins is not None:
            x, timestep, features, widen = *map(twins.narrow, (x, timestep, features)), twins.widen
            y, kinds = (None if each is None else twins.narrow(each) for each in (y, kinds))
        emb = self._embed(timestep, y, x.dtype)
        emb = emb if kinds is None else emb + kinds
        left, keys_and_values, h = len(points), iter(prompt), x
        for i, block in enumerate(self.input_blocks):
            h = self.first(h, features) if i == 0 else run_block(block, h, emb, keys_and_values, widen)
            if (point := skip(i)) in points:
                yield point, widen(self.zero_convs[i](h))
                left -= 1
            if not left:
                return
        h = run_block(self.middle_block, h, emb, keys_and_values, widen)
        yield MIDDLE, widen(self.middle_block_out(h))

    def forward(
        self, x: Tensor, timestep: Tensor, hint: Tensor, context: Tensor, y: Tensor | None = None
    ) -> list[Tensor]:
        """Return all residuals in one list, the middle last, for training: hint [B, 3, 8h, 8w]."""
        features, prompt = self.input_hint_block(hint), self.project(context)
        points = _points(self.config)
        return [residual for _, residual in self.residuals(x, timestep, features, prompt, y, points)]

    def first(self, x: Tensor, features: Tensor) -> Tensor:
        """Return what the first block makes of latents x [B, C, h, w] and of the hint's features [1 or B, W, h, w]."""
        return cast(nn.ModuleList, self.input_blocks[0])[0](x) + features

    def _embed(self, timestep: Tensor, y: Tensor | None, dtype: torch.dtype) -> Tensor:
        emb = self.time_embed(timestep_embedding(timestep, self.config.channels).to(dtype))
        return emb if self.config.label is None else emb + self.label_emb(y)


class ControlNetModel(ControlModel):
    """A ControlNet as the stack sees it.

    pool: average each residual over the picture, so that it carries no position ("shuffle", ControlNet 1.1).
    bgr: the network was trained on hints with red and blue swapped.
    cond_only: act on the cond rows in every mode, as sd-webui-controlnet does for pooled models.
    """

    def __init__(
        self,
        network: ControlNet,
        *,
        name: str,
        pool: bool = False,
        cond_only: bool | None = None,
        bgr: bool = False,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.network = network
        self.bgr = bgr
        self.name = name
        self.pool = pool
        self.cond_only = pool if cond_only is None else cond_only
        self.dtype = next(network.parameters()).dtype if dtype is None else dtype
        config = network.config
        widths = (config.channels, *(block.channels for block in config.blocks))
        self.base = Base(context=config.context, label=config.label or 0, blocks=widths)
        self.points = (MIDDLE,) if config.only_middle else _points(config)
        self.soft_weights = (1.0,) if config.only_middle else _soft_weights(len(self.points))
        self.hint_channels = config.hint_channels

    def bind(self, options: Mapping[str, object]) -> ControlModel:
        """Return the same told these options."""
        bound = super().bind(options)
        bound.reads_tokens = CONTEXT.name in bound.options
        return bound

    def prepare(self, hint: Tensor) -> Prepared:
        """Compute the features [N, channels, h, w] of a hint [N, hint_channels, 8h, 8w]."""
        hint = hint.flip(1) if self.bgr else hint
        return (self.network.input_hint_block(hint.to(self.dtype)),)

    def encode(self, context: Tensor) -> Prompt:
        """Project the context [B, T, D] to keys and values of every transformer block; nothing where there is none."""
        return () if self.network.config.context is None else self.network.project(context.to(self.dtype))

    def __call__(
        self, step: Step, prepared: Prepared, prompt: Prompt, points: Collection[Point]
    ) -> Iterator[tuple[Point, Tensor]]:
        """Yield the residual [B, C, h', w'] of each wanted skip, then that of the middle."""
        x = step.x[:, : self.network.config.latent_channels].to(self.dtype)  # inpainting bases have more channels
        y = None if step.y is None else step.y.to(self.dtype)
        features, *rest = prepared
        kinds = rest[0] if rest else None
        twins = step.twins() if y is None else None  # the vectors of uncond and cond differ from the first block on
        for point, residual in self.network.residuals(x, step.timestep, features, prompt, y, points, twins, kinds):
            yield point, residual.mean((2, 3), keepdim=True).expand_as(residual) if self.pool else residual
            del residual  # free before the next one is computed


def _points(config: ControlNetConfig) -> tuple[Point, ...]:
    return (*(skip(i) for i in range(len(config.blocks) + 1)), MIDDLE)


def _soft_weights(count: int) -> tuple[float, ...]:
    return tuple(SOFT_BASE ** (SOFT_LENGTH - 1 - i) for i in range(count))


def run_block(block: nn.Module, h: Tensor, emb: Tensor, prompt: Iterator[Tensor], widen: Rows = as_it_is) -> Tensor:
    """Return what the layers of a block make of h [B, C, h, w]; prompt: yields keys and values of its transformers."""
    for layer in cast(nn.ModuleList, block):
        if isinstance(layer, ResBlock):
            h = layer(h, emb if len(h) == len(emb) else widen(emb))
        elif isinstance(layer, SpatialTransformer):
            h = layer(h, prompt, widen)
        else:
            h = layer(h)
    return h


def hint_encoder(widths: tuple[int, ...], ops: Ops) -> nn.Sequential:
    """Build 3x3 convolutions with SiLU between them; every second one after the first pair halves the size.

    widths: channels of the hint, then of what each convolution gives.
    """
    layers: list[nn.Module] = []
    for i, (width, out) in enumerate(pairwise(widths)):
        halves = i > 0 and i % 2 == 0 and i < len(widths) - 2
        layers += [ops.Conv2d(width, out, 3, padding=1, stride=2 if halves else 1), nn.SiLU()]
    return nn.Sequential(*layers[:-1])


def _input_blocks(config: ControlNetConfig, kit: Kit) -> Iterator[nn.ModuleList]:
    yield nn.ModuleList([kit.ops.Conv2d(config.latent_channels, config.channels, 3, padding=1)])
    width = config.channels
    for block in config.blocks:
        yield nn.ModuleList([Downsample(width, kit)] if block.down else _layers(config, width, block, kit))
        width = block.channels


def _middle(config: ControlNetConfig, kit: Kit) -> list[nn.Module]:
    width = config.blocks[-1].channels
    layers = _layers(config, width, Block(width, config.middle_depth), kit)
    return layers + (_layers(config, width, Block(width), kit) if config.middle_second else [])


def _layers(config: ControlNetConfig, width: int, block: Block, kit: Kit) -> list[nn.Module]:
    layers: list[nn.Module] = [ResBlock(width, block.channels, config.channels * 4, kit)]
    if block.depth:
        heads, context = config.heads_of(block.channels), cast(int, config.context)
        layers.append(SpatialTransformer(block.channels, context, block.depth, heads, config.linear, kit))
    return layers


def _blocks(shapes: Shapes) -> Iterator[Block]:
    for i in range(1, count_children(shapes, "input_blocks")):
        name = f"input_blocks.{i}"
        if f"{name}.0.op.weight" in shapes:
            yield Block(shapes[f"{name}.0.op.weight"][0], down=True)
        else:
            yield Block(shapes[f"{name}.0.in_layers.2.weight"][0], depth_of(shapes, f"{name}.1"))


def count_children(shapes: Shapes, prefix: str, stride: int = 1) -> int:
    """Return how many numbered children, 0, stride, 2 * stride ..., a name has."""
    numbers = {int(key.split(".")[1]) for key in shapes if key.startswith(prefix + ".")}
    return max(numbers, default=-stride) // stride + 1


def depth_of(shapes: Shapes, prefix: str) -> int:
    """Return how many transformer blocks stand below a name."""
    start = f"{prefix}.transformer_blocks."
    return len({key[len(start) :].split(".")[0] for key in shapes if key.startswith(start)})


def _context(shapes: Shapes) -> int | None:
    return next((shape[1] for key, shape in shapes.items() if key.endswith(".attn2.to_k.weight")), None)


def _heads(settings: ControlNetSettings, context: int | None) -> tuple[int | None, int | None]:
    """Return (number of heads, channels of a head), one of them None: from the settings, else as known base models."""
    if settings.heads is not None:
        return settings.heads, None
    if settings.head_channels is not None:
        return None, settings.head_channels
    if context is None:
        return None, None
    if context not in HEADS:
        known = ", ".join(map(str, HEADS))
        raise UnsupportedModelError(
            f"the context width is {context}, expected one of {known}: for another base model give the setting "
            "'heads' or 'head_channels' in the file's metadata or in a JSON file beside it"
        )
    return HEADS[context]


def _check_divisors(config: ControlNetConfig) -> None:
    """Raise unless heads divide the width of every transformer, and groups that of every normalisation."""
    middle = Block(config.blocks[-1].channels, config.middle_depth)
    widths = {block.channels for block in (*config.blocks, middle) if block.depth}
    for name, value in (("heads", config.heads), ("head_channels", config.head_channels)):
        if wrong := [width for width in sorted(widths) if value and width % value]:
            raise ModelError(_no_divisor(name, value, wrong[0]))
    channels = {config.channels, *(block.channels for block in config.blocks)}
    if wrong := [width for width in sorted(channels) if width % config.groups]:
        raise ModelError(_no_divisor("norm_groups", config.groups, wrong[0]))


def _no_divisor(name: str, value: int | None, width: int) -> str:
    return (
        f"the setting '{name}' is {value}, which does not divide the network's width {width}: give the number that the "
        "network was trained with, in the file's metadata or in a JSON file beside it"
    )


class ControlNetFamily(Family[ControlNet, ControlNetSettings]):
    """ControlNets in the original names, bare, prefixed or inside a training checkpoint, and in those of diffusers."""

    id, title, settings = "controlnet", "ControlNet", ControlNetSettings
    bases, paper = "SD 1.x, SD 2.x, SDXL", "Zhang et al., ICCV 2023"
    options = (CONTEXT,)

    def detect(self, shapes: Shapes) -> bool:
        return is_controlnet(shapes) and not is_union(shapes)

    def layout(self, names: Collection[str]) -> str:
        if _is_diffusers(names):
            return "diffusers"
        if any(name.startswith("model.diffusion_model.") for name in names):
            return "full checkpoint"
        return "ldm, prefixed" if any(name.startswith(PREFIX) for name in names) else "ldm"

    def rename(self, named: Mapping[str, T]) -> dict[str, T]:
        """Return bare ldm names; the base model of a full training checkpoint is left out."""
        if _is_diffusers(named):
            return to_ldm(named)
        prefixed = {key[len(PREFIX) :]: each for key, each in named.items() if key.startswith(PREFIX)}
        return prefixed or dict(named)

    def unsaid(self) -> ControlNetSettings:
        return ControlNetSettings(heads=1, norm_groups=1)

    def of_config(self, config: Mapping[str, Any]) -> dict[str, object]:
        """Return what the weights do not show. diffusers calls the number of heads `attention_head_dim`."""
        settings: dict[str, object] = {"norm_groups": config.get("norm_num_groups")}
        settings |= heads_of_config(config)
        if config.get("global_pool_conditions"):
            settings["global_average_pooling"] = True
        return settings | {"hint_order": config.get("controlnet_conditioning_channel_order")}

    def base(self, shapes: Shapes) -> Base:
        return base_of(shapes)

    def offers(self, shapes: Shapes) -> tuple[Option, ...]:
        return _offers(_context(shapes))

    def create(self, shapes: Shapes, settings: ControlNetSettings, kit: Kit) -> ControlNet:
        return ControlNet(ControlNetConfig.from_shapes(shapes, settings), kit.ops, kit.attention)

    def wrap(
        self, network: ControlNet, name: str, settings: ControlNetSettings, dtype: torch.dtype | None
    ) -> ControlNetModel:
        pool = settings.global_average_pooling
        if pool is None and name.lower().removesuffix("_fp16").endswith("shuffle"):
            logging.getLogger("controlstack").warning(
                "'%s' is taken for a shuffle model by its name: its residuals are averaged over the picture. "
                "The setting 'global_average_pooling' in a JSON file beside it decides otherwise.",
                shown(name),
            )
            pool = True
        model = ControlNetModel(network, name=name, pool=bool(pool), bgr=settings.hint_order == "bgr", dtype=dtype)
        model.offers = _offers(network.config.context)
        return model

    def join(
        self,
        model: ControlModel,
        header: Header,
        settings: ControlNetSettings,
        base_state: Mapping[str, Tensor] | None,
    ) -> ControlModel:
        """Return the model with what was added to the base's weights in its training, if the file names a companion."""
        if settings.companion is not None and (companion := companion_of(header.weights, settings.companion)):
            model.delta = read_delta(companion, header, "increments", base_state)
        return model


FAMILY = ControlNetFamily()


def _offers(context: int | None) -> tuple[Option, ...]:
    return (CONTEXT,) if context == SDXL_CONTEXT else ()


def base_of(shapes: Shapes) -> Base:
    """Return what base model a ControlNet of these bare ldm shapes was made for."""
    label = shapes["label_emb.0.0.weight"][1] if "label_emb.0.0.weight" in shapes else 0
    widths = (shapes[FIRST][0], *(block.channels for block in _blocks(shapes)))
    return Base(context=_context(shapes), label=label, blocks=widths)


def heads_of_config(config: Mapping[str, Any]) -> dict[str, object]:
    """Return the heads of diffusers' configuration: one number, or one for each level."""
    heads: Any = config.get("num_attention_heads") or config.get("attention_head_dim")
    counts = cast("list[Any]", heads) if isinstance(heads, list) else [heads]
    if len({str(count) for count in counts}) <= 1:
        return {"heads": counts[0] if counts else None}
    widths = cast("list[Any]", config.get("block_out_channels") or [])
    if not all(type(each) is int and each > 0 for each in (*widths, *counts)):
        raise ModelError(f"the configuration beside the model has {shown(counts)} attention heads, expected numbers")
    channels = {width // count for width, count in zip(widths, counts, strict=False)}
    if len(channels) != 1:
        raise ModelError(
            f"the configuration beside the model has {shown(counts)} attention heads at widths {shown(widths)}, "
            "expected one number of heads, or one width of a head"
        )
    return {"head_channels": channels.pop()}


def is_controlnet(names: Collection[str]) -> bool:
    """Return whether these are the names of a ControlNet of any kind."""
    if _is_diffusers(names):
        return "controlnet_down_blocks.0.weight" in names and "conv_in.weight" in names
    bare = ("input_hint_block.0.weight", "zero_convs.0.0.weight", "input_blocks.0.0.weight")
    lite = "input_blocks.1.2.weight"  # a convolution in place of a residual block: a ControlNet-Lite
    return any(all(prefix + name in names for name in bare) and prefix + lite not in names for prefix in ("", PREFIX))


def is_union(names: Collection[str]) -> bool:
    """Return whether a ControlNet is one for several kinds of hints, which `union.py` reads."""
    return not {TASKS, PREFIX + TASKS}.isdisjoint(names)


def _is_diffusers(names: Collection[str]) -> bool:
    return "controlnet_cond_embedding.conv_in.weight" in names
