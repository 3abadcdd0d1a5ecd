"""The network of Uni-ControlNet: a local adapter that its hints modulate, and a global one for a picture's content.

The local adapter is a ControlNet that never sees its hints in its stream. They stand in channels of their own, three
for each kind in the order of `kinds.unis`, and black where there is none. An extractor makes maps f_l of them, one for
each level, which modulate the normalisations of the first residual block of the level; those have no weights otherwise:

    norm(h) = GroupNorm(h) * (1 + conv_gamma(f_l)) + conv_beta(f_l)

Neither depends on the step, so both are computed once for a hint. Formulas and names: `models/local_adapter.py` and
`models/global_adapter.py` of ShihaoZhaoZSH/Uni-ControlNet.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from ....core.control import Prepared
from ...family import Shapes
from ...layers import GEGLU, RESNET_EPS, Kit, ResBlock, Rows
from ..controlnet.config import ControlNetConfig
from ..controlnet.network import ControlNet, run_block

GLOBAL = "global_adapter."  # before the names of the global adapter
STEM, LEVELS = "feature_extractor.pre_extractor.", "feature_extractor.extractors."
GAMMA = "norm_in.conv_gamma.weight"  # of a block that the hints modulate
HALVING = (1, 3)  # convolutions of the stem with stride 2; each level behind it halves the size once more
PER_BLOCK = 4  # tensors by which the hints modulate a block


class Extractor(nn.Module):
    """Hints [N, C, 8h, 8w] -> a map for each level: [N, ., h, w], then half the size each time."""

    def __init__(self, stem: Sequence[int], levels: Sequence[int], kit: Kit) -> None:
        """stem: channels of the hints and of each convolution behind them. levels: channels of each map."""
        super().__init__()
        conv = kit.ops.Conv2d
        layers: list[nn.Module] = []
        for number, (width, out) in enumerate(pairwise(stem)):
            layers += [conv(width, out, 3, padding=1, stride=2 if number in HALVING else 1), nn.SiLU()]
        self.pre_extractor = nn.Sequential(*layers)
        self.extractors = nn.ModuleList(
            nn.Sequential(conv(width, out, 3, padding=1, stride=2), nn.SiLU())
            for width, out in pairwise((stem[-1], *levels))
        )
        self.zero_convs = nn.ModuleList(conv(width, width, 3, padding=1) for width in levels)

    def forward(self, hint: Tensor) -> Iterator[Tensor]:
        h = self.pre_extractor(hint)
        for extractor, zero_conv in zip(self.extractors, self.zero_convs, strict=True):
            h = extractor(h)
            yield zero_conv(h)


class Modulation(nn.Module):
    """A map of the hints [N, C, h, w] -> the factor and the summand of a normalisation, each [N, C', h, w]."""

    def __init__(self, width: int, out: int, kit: Kit) -> None:
        super().__init__()
        self.conv_gamma = kit.ops.Conv2d(width, out, 3, padding=1)
        self.conv_beta = kit.ops.Conv2d(width, out, 3, padding=1)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        return 1 + self.conv_gamma(features), self.conv_beta(features)


class ModulatedBlock(ResBlock):
    """A residual block whose normalisations have factor and summand from the hints."""

    def __init__(self, channels: int, out: int, emb: int, seen: int, kit: Kit) -> None:
        """seen: channels of the map of the hints."""
        super().__init__(channels, out, emb, kit)
        self._groups = kit.groups
        self.in_layers[0], self.out_layers[0] = nn.Identity(), nn.Identity()
        self.norm_in, self.norm_out = Modulation(seen, channels, kit), Modulation(seen, out, kit)

    def forward(self, x: Tensor, emb: Tensor, *modulations: Tensor) -> Tensor:
        """Return what the block makes of x [B, C, h, w]; modulations: two for each normalisation, [1 or B, ...]."""
        gain_in, shift_in, gain_out, shift_out = modulations
        h = self.in_layers(self._norm(x) * gain_in + shift_in) + self.emb_layers(emb)[..., None, None]
        return self.skip_connection(x) + self.out_layers(self._norm(h) * gain_out + shift_out)

    def _norm(self, h: Tensor) -> Tensor:
        return F.group_norm(h, self._groups, eps=RESNET_EPS)


class GlobalAdapter(nn.Module):
    """An image embedding [N, 1, D] -> tokens [N, count, D]."""

    def __init__(self, widths: tuple[int, int, int], inner: tuple[int, int], kit: Kit) -> None:
        """widths: of the embedding, and behind each feed-forward. inner: in each of those."""
        super().__init__()
        ops, (width, middle, out) = kit.ops, widths
        self.norm1, self.norm2 = ops.LayerNorm(width), ops.LayerNorm(middle)
        self.ff1, self.ff2 = FeedForward(width, inner[0], middle, kit), FeedForward(middle, inner[1], out, kit)

    def forward(self, seen: Tensor) -> Tensor:
        out = self.ff2(self.norm2(self.ff1(self.norm1(seen[:, 0]))))
        return out.reshape(len(seen), -1, seen.shape[-1])


class FeedForward(nn.Module):
    """A gated linear unit, and a layer to another width."""

    def __init__(self, width: int, inner: int, out: int, kit: Kit) -> None:
        super().__init__()
        self.net = nn.Sequential(GEGLU(width, inner, kit), nn.Identity(), kit.ops.Linear(inner, out))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class UniNet(ControlNet):
    """The local adapter, and the global one as a part of it, where the file has one."""

    def __init__(self, config: ControlNetConfig, shapes: Shapes, kit: Kit) -> None:
        super().__init__(config, kit.ops, kit.attention)
        del self.input_hint_block
        kit = Kit(kit.ops, kit.attention, config.groups)
        self.feature_extractor = Extractor(_widths(shapes, STEM), _widths(shapes, LEVELS)[1:], kit)
        self.modulated = tuple(i for i in range(len(self.input_blocks)) if f"input_blocks.{i}.0.{GAMMA}" in shapes)
        levels, read = len(self.feature_extractor.extractors), len(self.modulated)
        if read != levels:
            raise ValueError(f"it makes maps of its hints for {levels} levels, and {read} blocks read one")
        for index in self.modulated:
            out, seen = config.blocks[index - 1].channels, shapes[f"input_blocks.{index}.0.{GAMMA}"][1]
            before = config.blocks[index - 2].channels if index > 1 else config.channels
            block = cast(nn.ModuleList, self.input_blocks[index])
            block[0] = ModulatedBlock(before, out, config.channels * 4, seen, kit)
        adapter = _global(shapes, config.context, kit)
        if adapter is not None:
            self.global_adapter = adapter

    def read(self, hints: Tensor) -> Prepared:
        """Return the modulations of each block that has some, four each, of hints [N, C, 8h, 8w]."""
        kept: list[Tensor] = []
        for index, features in zip(self.modulated, self.feature_extractor(hints), strict=True):
            block = cast(ModulatedBlock, cast(nn.ModuleList, self.input_blocks[index])[0])
            kept += (*block.norm_in(features), *block.norm_out(features))
        return tuple(kept)

    def first(self, x: Tensor, hint: Prepared) -> Tensor:
        return cast(nn.ModuleList, self.input_blocks[0])[0](x)

    def block(
        self, index: int, h: Tensor, hint: Prepared, emb: Tensor, prompt: Iterator[Tensor], widen: Rows
    ) -> Tensor:
        if index not in self.modulated:
            return super().block(index, h, hint, emb, prompt, widen)
        layers, at = cast(nn.ModuleList, self.input_blocks[index]), PER_BLOCK * self.modulated.index(index)
        own = tuple(each if len(each) in (1, len(h)) else widen(each) for each in hint[at : at + PER_BLOCK])
        h = layers[0](h, emb if len(h) == len(emb) else widen(emb), *own)
        return run_block(layers[1:], h, emb, prompt, widen)


def _widths(shapes: Shapes, start: str) -> list[int]:
    """Return the channels that the first convolution below a name reads, and what each of them gives, in order."""
    found = {name: shape for name, shape in shapes.items() if name.startswith(start) and name.endswith(".weight")}
    numbered = sorted(found, key=lambda name: int(name.removeprefix(start).split(".")[0]))
    return [found[numbered[0]][1], *(found[name][0] for name in numbered)]


def _global(shapes: Shapes, context: int | None, kit: Kit) -> GlobalAdapter | None:
    """Return the global adapter of these shapes; None where there is none. ValueError for one that fits no prompt.

    context: width of a token of the prompt.
    """
    own = {name[len(GLOBAL) :]: shape for name, shape in shapes.items() if name.startswith(GLOBAL)}
    if not own:
        return None
    (width,), (middle,), (out, _) = own["norm1.weight"], own["norm2.weight"], own["ff2.net.2.weight"]
    if width != context or out % width:
        raise ValueError(f"its global adapter makes {out} numbers of {width}, expected tokens of the width {context}")
    inner = own["ff1.net.2.weight"][1], own["ff2.net.2.weight"][1]
    return GlobalAdapter((width, middle, out), inner, kit)
