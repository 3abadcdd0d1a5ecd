"""The LoRA that the files of FaceID hold beside the adapter: differences of low rank to the base's attention.

Numbers count diffusers' attention processors, in which self- and cross-attention alternate: 0 and 1 are those of the
first transformer. `ip_adapter_faceid.py` adds `up(down(x))` without a factor to the four projections of each.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from torch import Tensor

from ....core.network.effects import WeightDelta
from ....core.network.points import Block, Point
from ...family import Shapes

PARTS = {"to_q": "to_q", "to_k": "to_k", "to_v": "to_v", "to_out": "to_out.0"}  # in the file, and in the base
UP, DOWN = "_lora.up.weight", "_lora.down.weight"
START = "ip_adapter."


def has_lora(names: Collection[str]) -> bool:
    """Return whether a file with these names holds a LoRA."""
    return any(name.startswith(START) and name.endswith((UP, DOWN)) for name in names)


def lora_in_file(numbers: Collection[str], shapes: Shapes) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes that a file's LoRA must have: of every attention and part, two factors that fit.

    numbers: of the cross-attentions, in the file.
    """
    found: dict[str, tuple[int, ...]] = {}
    for number in numbers:
        width = shapes[f"{START}{number}.to_k_ip.weight"][0]
        context = shapes[f"{START}{number}.to_k_ip.weight"][1]
        for attention, reads in ((int(number) - 1, width), (int(number), context)):
            for part in PARTS:
                stem = f"{START}{attention}.{part}"
                rank = shapes.get(stem + DOWN, shapes.get(stem + UP, ())[::-1])[:1] or (1,)
                found[stem + UP] = (width, *rank)
                found[stem + DOWN] = (*rank, reads if part in ("to_k", "to_v") else width)
    return found


def delta_of(points: Mapping[str, Point], lora: Mapping[str, Tensor]) -> WeightDelta | None:
    """Return what a file's LoRA changes in the base; None where it holds none.

    points: where the cross-attentions are, by their numbers in the file. lora: factors by the file's names.
    """
    if not lora:
        return None
    factors = {
        f"{_transformer(point)}.{attention}.{name}.weight": (
            lora[f"{START}{int(number) + offset}.{part}{UP}"],
            lora[f"{START}{int(number) + offset}.{part}{DOWN}"],
            1.0,
        )
        for number, point in points.items()
        for attention, offset in (("attn1", -1), ("attn2", 0))
        for part, name in PARTS.items()
    }
    return WeightDelta(low_rank=factors)


def _transformer(point: Point) -> str:
    """Return the bare ldm name of a transformer block."""
    block = "middle_block" if point.block is Block.MIDDLE else f"{point.block.value}_blocks.{point.index}"
    return f"{block}.1.transformer_blocks.{point.depth}"
