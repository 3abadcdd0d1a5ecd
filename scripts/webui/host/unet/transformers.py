"""Transformers that are built as NVIDIA's Cosmos Predict 2 is, of which Anima is one: their widths and their points.

They have a list of `blocks`, each with `self_attn`, `cross_attn` and `mlp`, between which the tokens of a picture are
maps of several axes. A point of a block is the input of a projection, so a hook before that is all that is needed.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from .....core.network.attach import Locate, Site, Value
from .....core.network.base import Base, Transformer
from .....core.network.points import Block, Part, Point

PROJECTIONS = {  # in a block
    Part.ATTN1_Q: "self_attn.q_proj",
    Part.ATTN1_K: "self_attn.k_proj",
    Part.ATTN1_V: "self_attn.v_proj",
    Part.ATTN2_Q: "cross_attn.q_proj",
    Part.MLP: "mlp.layer1",
}


def is_transformer(network: Any) -> bool:
    """Return whether a network is built so."""
    blocks = getattr(network, "blocks", None)
    if not isinstance(blocks, nn.ModuleList) or not len(blocks):
        return False
    names = dict(blocks[0].named_modules())
    return all(path in names for path in PROJECTIONS.values())


def base_of(network: Any) -> Base:
    """Return the widths of a transformer that control models must share."""
    first = network.blocks[0].get_submodule(PROJECTIONS[Part.ATTN1_Q])
    return Base(transformer=Transformer(first.in_features, len(network.blocks)))


def locate_in(network: Any) -> Locate:
    """Return where the points of a transformer are."""

    def locate(point: Point) -> Site:
        assert point.block is Block.LAYER
        return Site(network.blocks[point.index].get_submodule(PROJECTIONS[point.part]), Value.TOKENS)

    return locate
