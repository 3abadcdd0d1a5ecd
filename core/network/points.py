"""The points of a base network: where a control may add to it, and what it may look at.

A U-Net of latent diffusion counts its blocks as ldm does: input blocks from the outside in, the middle block, output
blocks from the inside out. What stands at a point is

    stream      what a block returns, [B, C, h, w]
    skip        what an input block hands to the decoder, [B, C, h, w]; a change reaches the decoder alone
    onward      what an input block hands to the block behind it; a change does not reach the decoder as a skip
    attn1.q     what the query projection of a self-attention receives, [B, h * w, C]; .k and .v likewise
    attn1.out   what a self-attention returns, behind its output projection, [B, h * w, C]
    attn2...    the same of the cross-attention, whose keys and values receive the prompt, [B, T, D]
    attn2.heads what the heads of a cross-attention return, before its output projection, [B, h * w, C]; what is seen
                there, also by a shift, are the projected queries, [B, h * w, C], and what is added comes to the heads
    prompt      the prompt itself, [B, T, D]; what is put there are further tokens
    vector      the vector condition, [B, A], which SDXL makes of the pooled prompt and of sizes; what is put there,
                [B, D], stands in place of its first D values, the pooled prompt

A transformer counts its blocks from the first to the last (`Block.LAYER`). What stands there are the tokens of the
picture, [B, N, C], row by row, however the network lays them out: attn1 is the self-attention of a block, attn2 its
cross-attention, and

    mlp         what the first projection of a block's MLP receives
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Block(Enum):
    """A part of the base network."""

    INPUT = "input"  # encoder
    MIDDLE = "middle"
    OUTPUT = "output"  # decoder
    LAYER = "layer"  # a block of a transformer
    PROMPT = "prompt"
    VECTOR = "vector"


class Part(Enum):
    """What inside a block."""

    STREAM = "stream"
    SKIP = "skip"
    ONWARD = "onward"
    ATTN1_Q = "attn1.q"
    ATTN1_K = "attn1.k"
    ATTN1_V = "attn1.v"
    ATTN1_OUT = "attn1.out"
    ATTN2_Q = "attn2.q"
    ATTN2_K = "attn2.k"
    ATTN2_V = "attn2.v"
    ATTN2_HEADS = "attn2.heads"
    ATTN2_OUT = "attn2.out"
    MLP = "mlp"


@dataclass(frozen=True, slots=True)
class Point:
    """One point of the base network; `depth` is the transformer block inside a block, for parts of attention."""

    block: Block
    index: int = 0  # of the block; 0 for the middle, the prompt and the vector
    part: Part = Part.STREAM
    depth: int = 0


def stream(index: int) -> Point:
    """Return the point after input block `index` (T2I-Adapter)."""
    return Point(Block.INPUT, index)


def skip(index: int) -> Point:
    """Return the point where the decoder takes the skip of input block `index` (ControlNet)."""
    return Point(Block.INPUT, index, Part.SKIP)


def onward(index: int) -> Point:
    """Return the point between input block `index` and what follows it, past the skip (ControlNeXt)."""
    return Point(Block.INPUT, index, Part.ONWARD)


MIDDLE = Point(Block.MIDDLE)
PROMPT = Point(Block.PROMPT)
VECTOR = Point(Block.VECTOR)
CONDITIONS = (Block.PROMPT, Block.VECTOR)  # what stands there is given to the network, and not computed in it
