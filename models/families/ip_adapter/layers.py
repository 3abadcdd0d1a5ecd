"""Which cross-attention of the base network each pair of projections of a file belongs to, and how strongly it counts.

Files number the pairs 1, 3, 5 ... in the order of diffusers' attention processors: the encoder, the decoder, and the
middle last. A base network is told by the widths of its layers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from ....core.network.points import Block, Part, Point

PER_LEVEL, PER_LEVEL_OUT = 2, 3  # transformers of a level, in the encoder and in the decoder
SD_LAYERS = 16
ENCODER, DECODER = ((1, 2), (4, 5), (7, 8)), ((9, 10, 11), (6, 7, 8), (3, 4, 5))  # blocks of SD 1.x by level
ENCODER_XL, DECODER_XL = ((4, 5), (7, 8)), ((3, 4, 5), (0, 1, 2))

LINEAR = "linear"
STYLE, COMPOSITION = "style transfer", "composition"
FAINT, LEAST = 0.2, 0.05  # factors of weakened parts and of a ramp's lower end
# By layer, as ComfyUI_IPAdapter_plus names and counts them: by the share of transformers that compute before a layer,
# by the part of the network that is weakened, or by single transformers.
RAMPS: Mapping[str, Callable[[float], float]] = MappingProxyType(
    {
        LINEAR: lambda _: 1.0,
        "ease in": lambda share: LEAST + (1 - LEAST) * (1 - share),
        "ease out": lambda share: LEAST + (1 - LEAST) * share,
        "ease in-out": lambda share: LEAST + (1 - LEAST) * (1 - abs(2 * share - 1)),
        "reverse in-out": lambda share: LEAST + (1 - LEAST) * abs(2 * share - 1),
    }
)
WEAK: Mapping[str, tuple[Block, ...]] = MappingProxyType(
    {
        "weak input": (Block.INPUT,),
        "weak middle": (Block.MIDDLE,),
        "weak output": (Block.OUTPUT,),
        "strong middle": (Block.INPUT, Block.OUTPUT),
    }
)
# Single transformers by their number in the order of computation; for SD 1.x and SDXL.
SINGLE: Mapping[str, tuple[Mapping[int, float], Mapping[int, float]]] = MappingProxyType(
    {
        STYLE: (dict.fromkeys((0, 1, 2, 3, 9, 10, 11, 12, 13, 14, 15), 1.0), {6: 1.0}),
        COMPOSITION: ({4: 0.25, 5: 1.0}, {3: 1.0}),
    }
)
WEIGHT_TYPES = (*RAMPS, *WEAK, *SINGLE)


def points_of(widths: Sequence[int]) -> tuple[Point, ...]:
    """Return where each pair of a file acts, in the file's order; ValueError for layers of no base that is known."""
    levels = _levels(widths)
    if levels is None:
        raise ValueError(f"it has {len(widths)} pairs of layers, which are those of no base model that is known")
    encoder, decoder = (ENCODER, DECODER) if len(levels) == len(ENCODER) else (ENCODER_XL, DECODER_XL)
    inside = [(Block.INPUT, index, depth) for level, depth in zip(encoder, levels, strict=True) for index in level]
    outside = [
        (Block.OUTPUT, index, depth)
        for level, depth in zip(reversed(decoder), reversed(levels), strict=True)
        for index in level
    ]
    places = [*inside, *outside, (Block.MIDDLE, 0, levels[-1])]
    return tuple(Point(block, at, Part.ATTN2_HEADS, k) for block, at, depth in places for k in range(depth))


def computed(points: Sequence[Point]) -> tuple[Point, ...]:
    """Return points in the order in which the base network computes them."""
    order = {Block.INPUT: 0, Block.MIDDLE: 1, Block.OUTPUT: 2}
    return tuple(sorted(points, key=lambda point: (order[point.block], point.index, point.depth)))


def transformers_of(points: Sequence[Point]) -> list[tuple[Block, int]]:
    """Return the blocks that hold a transformer, in the order in which the base network computes them."""
    return list(dict.fromkeys((point.block, point.index) for point in computed(points)))


def factors(kind: str, points: Sequence[Point]) -> dict[Point, float]:
    """Return how much each point counts under a weight type."""
    transformers = transformers_of(points)
    numbers = {point: transformers.index((point.block, point.index)) for point in points}
    if kind in SINGLE:
        chosen = SINGLE[kind][0 if len(transformers) == SD_LAYERS else 1]
        return {point: chosen.get(number, 0.0) for point, number in numbers.items()}
    if kind in WEAK:
        return {point: FAINT if point.block in WEAK[kind] else 1.0 for point in points}
    return {point: RAMPS[kind](number / len(transformers)) for point, number in numbers.items()}


def _levels(widths: Sequence[int]) -> tuple[int, ...] | None:
    """Return how many transformer blocks each level with attention has, from the outside in; None for no known base."""
    for depths in _candidates(widths):
        repeats = [depth * PER_LEVEL for depth in depths], [depth * PER_LEVEL_OUT for depth in depths]
        level_widths, at = list[int](), 0
        for repeat in repeats[0]:
            level_widths.append(widths[at])
            at += repeat
        expected = _spread(level_widths, repeats[0]) + _spread(level_widths[::-1], repeats[1][::-1])
        if list(widths) == expected + [level_widths[-1]] * depths[-1]:
            return depths
    return None


def _candidates(widths: Sequence[int]) -> list[tuple[int, ...]]:
    """Return depths of levels that make so many layers: SD 1.x first, SDXL's own next, then narrower relatives."""
    count = len(widths)
    found: list[tuple[int, ...]] = [(1, 1, 1)] if count == SD_LAYERS else []
    outer, inner = PER_LEVEL + PER_LEVEL_OUT, PER_LEVEL + PER_LEVEL_OUT + 1
    pairs = [(first, (count - outer * first) // inner) for first in range(1, count // outer + 1)]
    exact = [(first, second) for first, second in pairs if second > 0 and outer * first + inner * second == count]
    return found + sorted(exact, key=lambda pair: pair != (2, 10))


def _spread(values: Sequence[int], counts: Sequence[int]) -> list[int]:
    return [value for value, count in zip(values, counts, strict=True) for _ in range(count)]
