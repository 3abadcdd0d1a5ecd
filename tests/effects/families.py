"""Five families that no paper knows, one for each way in which a control may act on a base network.

Each says its change as a plain formula (`change`), which the tests also apply by hooks of their own, so that what is
judged is how a host carries it out. Weights are random and not zero. A family is built for the widths of a base.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import torch
import torch.nn.functional as F
from controlstack.core.control import ControlModel, HintSpace, Prepared, Prompt
from controlstack.core.network.base import LATENT, Base
from controlstack.core.network.effects import Effect, Shift, WeightDelta
from controlstack.core.network.points import MIDDLE, Block, Part, Point, onward, skip, stream
from controlstack.core.step import Step
from torch import Tensor, nn


def random_layer(layer: nn.Module, seed: int, scale: float = 0.5) -> nn.Module:
    """A layer whose every weight is random."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in layer.parameters():
        fan = max(1, parameter[0].numel()) if parameter.ndim > 1 else 1
        parameter.data.normal_(0, scale / fan**0.5, generator=generator)
    return layer.requires_grad_(False).eval()


class Family(ControlModel):
    """What the five share: one network, one point unless said otherwise, hints of pictures."""

    def __init__(self, name: str, network: nn.Module, point: Point | None) -> None:
        self.name, self.network, self.base = name, network, Base()
        self.points = () if point is None else (point,)
        self.soft_weights = (0.5,) * len(self.points)

    def shift_at(self, shift: Shift, points: Collection[Point]) -> Iterator[tuple[Point, Effect]]:
        """Yield the shift; a base may compute in another precision than the family."""
        cast = Shift(lambda h: shift.function(self.cast(h)))
        yield from ((point, cast) for point in self.points if point in points)

    def cast(self, h: Tensor) -> Tensor:
        return h.to(next(self.network.parameters()).dtype)


class CrossNormed(Family):
    """The stream after an input block gets the hint's features, brought to the stream's own mean and deviation."""

    def __init__(self, width: int, index: int = 1) -> None:
        network = random_layer(nn.Conv2d(3, width, LATENT, stride=LATENT), 1)
        super().__init__("cross-normed", network, stream(index))

    def prepare(self, hint: Tensor) -> Prepared:
        return (self.network(hint),)

    def change(self, h: Tensor, features: Tensor) -> Tensor:
        features = F.interpolate(features, h.shape[-2:], mode="nearest-exact")
        mean, std = features.mean((2, 3), keepdim=True), features.std((2, 3), keepdim=True)
        return (features - mean) / (std + 1e-5) * h.std((2, 3), keepdim=True) + h.mean((2, 3), keepdim=True)

    def __call__(
        self, step: Step, prepared: Prepared, prompt: Prompt, points: Collection[Point]
    ) -> Iterator[tuple[Point, Effect]]:
        yield from self.shift_at(Shift(lambda h: self.change(h, prepared[0])), points)


class QueryTap(Family):
    """What a self-attention's query projection reads moves by a low-rank map of itself and of the hint's mean."""

    def __init__(self, width: int, index: int = 1, block: Block = Block.INPUT) -> None:
        network = nn.ModuleList([nn.Linear(width, 4), nn.Linear(7, width)])
        super().__init__("query tap", random_layer(network, 2, scale=4.0), Point(block, index, Part.ATTN1_Q))

    def prepare(self, hint: Tensor) -> Prepared:
        return (hint.mean((2, 3)),)

    def change(self, h: Tensor, colour: Tensor) -> Tensor:
        down, up = self.network
        both = torch.cat([down(h), colour[:, None].expand(len(h), h.shape[1], 3)], dim=-1)
        return up(torch.tanh(both))

    def __call__(
        self, step: Step, prepared: Prepared, prompt: Prompt, points: Collection[Point]
    ) -> Iterator[tuple[Point, Effect]]:
        yield from self.shift_at(Shift(lambda h: self.change(h, prepared[0])), points)


class CrossOut(Family):
    """What a cross-attention returns gets a map of itself, scaled by the hint's mean."""

    def __init__(self, width: int, index: int = 1, block: Block = Block.INPUT) -> None:
        super().__init__("cross out", random_layer(nn.Linear(width, width), 3), Point(block, index, Part.ATTN2_OUT))

    def prepare(self, hint: Tensor) -> Prepared:
        return (hint.mean((1, 2, 3)),)

    def change(self, h: Tensor, level: Tensor) -> Tensor:
        return torch.tanh(self.network(h)) * (0.5 + level[:, None, None])

    def __call__(
        self, step: Step, prepared: Prepared, prompt: Prompt, points: Collection[Point]
    ) -> Iterator[tuple[Point, Effect]]:
        yield from self.shift_at(Shift(lambda h: self.change(h, prepared[0])), points)


class Latents(Family):
    """The picture's latents, mapped, are added behind an input block of their size."""

    hint_space, hint_channels = HintSpace.LATENTS, 4

    def __init__(self, width: int, index: int = 1) -> None:
        super().__init__("latents", random_layer(nn.Conv2d(4, width, 1), 6, scale=3.0), stream(index))

    def __call__(
        self, step: Step, prepared: Prepared, prompt: Prompt, points: Collection[Point]
    ) -> Iterator[tuple[Point, Effect]]:
        yield from ((point, self.network(self.cast(prepared[0]))) for point in self.points if point in points)


class MapOut(CrossOut):
    """The same of a map, and more of it: behind the middle of a small picture there is one pixel."""

    def change(self, h: Tensor, level: Tensor) -> Tensor:
        return 30 * super().change(h.movedim(1, -1).flatten(1, 2), level).movedim(1, -1).reshape(h.shape)


class Delta(Family):
    """A weight of the first residual block by its whole difference, a projection of the prompt by a low-rank one."""

    def __init__(self, weights: dict[str, tuple[int, ...]]) -> None:
        """weights: shapes of the base's weights by bare ldm names."""
        super().__init__("delta", nn.Module(), None)
        whole = "input_blocks.1.0.in_layers.2.weight"
        low = "middle_block.1.transformer_blocks.0.attn2.to_k.weight"
        generator = torch.Generator().manual_seed(4)
        self.delta = WeightDelta(
            tensors={whole: torch.randn(weights[whole], generator=generator) * 0.1},
            low_rank={
                low: (
                    torch.randn(weights[low][0], 2, generator=generator) * 0.3,
                    torch.randn(2, weights[low][1], generator=generator) * 0.3,
                    0.7,
                )
            },
        )

    def __call__(
        self, step: Step, prepared: Prepared, prompt: Prompt, points: Collection[Point]
    ) -> Iterator[tuple[Point, Effect]]:
        yield from ()


class Again(Family):
    """What stands after an input block when the base sees darker latents, mapped, is added to what stands there."""

    def __init__(self, width: int, index: int = 1) -> None:
        super().__init__("again", random_layer(nn.Conv2d(width, width, 1), 5), stream(index))

    def prepare(self, hint: Tensor) -> Prepared:
        return (hint.mean((1, 2, 3)),)

    def other(self, x: Tensor, level: Tensor) -> Tensor:
        """The latents of the second evaluation."""
        return x * 0.5 + level[:, None, None, None]

    def change(self, seen: Tensor) -> Tensor:
        return self.network(seen)

    def __call__(
        self, step: Step, prepared: Prepared, prompt: Prompt, points: Collection[Point]
    ) -> Iterator[tuple[Point, Effect]]:
        for point in self.points:
            if point in points:
                seen = step.again(self.other(step.x[:, :4], prepared[0]), [point])
                yield point, self.change(self.cast(seen[point]))


def families_of(weights: dict[str, tuple[int, ...]]) -> dict[str, Family]:
    """One of each kind and some at further points, for a U-Net with weights of these shapes by bare ldm names."""
    inputs = max(int(name.split(".")[1]) for name in weights if name.startswith("input_blocks.")) + 1
    widths = tuple(_width(weights, f"input_blocks.{index}") for index in range(inputs))
    key = "attn1.to_q.weight"
    attends = min(int(n.split(".")[1]) for n in weights if n.startswith("input_blocks.") and n.endswith(key))
    context = next(shape[1] for name, shape in weights.items() if name.endswith("attn2.to_k.weight"))
    return {
        **make_families(Base(blocks=widths), weights, attends),
        "latents": Latents(widths[1]),
        "stream": at(CrossNormed(widths[2]), stream(2)),
        "skip": at(CrossNormed(widths[3]), skip(3)),
        "onward": at(CrossNormed(widths[0]), onward(0)),
        "middle": at(MapOut(widths[-1]), MIDDLE),
        "decoder": at(MapOut(_width(weights, "output_blocks.3")), Point(Block.OUTPUT, 3)),
        "heads": at(CrossOut(widths[attends]), Point(Block.INPUT, attends, Part.ATTN2_HEADS)),
        "middle heads": at(CrossOut(widths[-1]), Point(Block.MIDDLE, 0, Part.ATTN2_HEADS)),
        "prompt keys": at(CrossOut(context), Point(Block.INPUT, attends, Part.ATTN2_K)),
        "decoder query": at(QueryTap(widths[attends]), Point(Block.OUTPUT, inputs - 1 - attends, Part.ATTN2_Q)),
    }


def at(family: Family, point: Point) -> Family:
    """The same formula at another point."""
    family.points = (point,)
    return family


def _width(weights: dict[str, tuple[int, ...]], block: str) -> int:
    """Channels behind a block: of its residual block, its halving, or the first convolution."""
    layers = ("0.out_layers.3.weight", "0.op.weight", "0.weight")
    return next(weights[name][0] for layer in layers if (name := f"{block}.{layer}") in weights)


def make_families(base: Base, weights: dict[str, tuple[int, ...]], attends: int) -> dict[str, Family]:
    """One of each kind, for a base of these widths; attends: an input block that has attention."""
    assert base.blocks is not None
    width = base.blocks[attends]
    return {
        "cross-normed": CrossNormed(base.blocks[1]),
        "query tap": QueryTap(width, attends),
        "cross out": CrossOut(width, attends),
        "delta": Delta(weights),
        "again": Again(base.blocks[1]),
    }
