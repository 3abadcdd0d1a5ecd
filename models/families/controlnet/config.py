"""What the shapes of a ControlNet's weights tell of its network, and the settings for what they do not tell."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ....core.errors import ModelError, UnsupportedModelError
from ....core.network.base import SD1_CONTEXT, SD2_CONTEXT, SDXL_CONTEXT, Base
from ...family import Shapes
from ...layers import STANDARD_GROUPS
from ...settings import FileName, Settings, Truth, Whole, Word, setting

FIRST = "input_blocks.0.0.weight"  # the convolution that reads the latents
STANDARD_HINT_STEM = (16, 16, 32, 32, 96, 96, 256)  # channels of the hint encoder, cldm.py `input_hint_block`
# Attention heads leave no trace in the shapes. SD 1.x has 8 of them, its successors make them 64 channels wide.
HEADS: dict[int, tuple[int | None, int | None]] = {
    SD1_CONTEXT: (8, None),
    SD2_CONTEXT: (None, 64),
    SDXL_CONTEXT: (None, 64),
}
MOST = 4096  # heads, channels or groups; no network is as wide as their product


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
        context = context_of(shapes)
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
            middle_second=any(name.startswith("middle_block.2.") for name in shapes),
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


def base_of(shapes: Shapes) -> Base:
    """Return what base model a ControlNet of these bare ldm shapes was made for."""
    label = shapes["label_emb.0.0.weight"][1] if "label_emb.0.0.weight" in shapes else 0
    widths = (shapes[FIRST][0], *(block.channels for block in _blocks(shapes)))
    return Base(context=context_of(shapes), label=label, blocks=widths)


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


def context_of(shapes: Shapes) -> int | None:
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
