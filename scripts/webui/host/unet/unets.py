"""U-Nets that are built as latent diffusion builds them: their widths, where their points are, and single weights.

Those of SD 1.x, SD 2.x (ldm), SDXL (sgm), Forge and its relatives have one shape: `input_blocks`, `middle_block`,
`output_blocks`, with transformers whose attentions are `attn1` and `attn2`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from .....core.network.attach import Locate, Site, Value, attention_site
from .....core.network.base import Base
from .....core.network.points import Block, Part, Point

KEYS = "attn2.to_k.weight"  # a layer whose inputs are the prompt's tokens


def base_of(unet: Any) -> Base:
    """Return the widths of a U-Net that control models must share."""
    levels, layers = unet.channel_mult, unet.num_res_blocks
    if isinstance(layers, int):
        layers = [layers] * len(levels)
    blocks = [unet.model_channels]
    for level, (factor, count) in enumerate(zip(levels, layers, strict=True)):
        blocks += [factor * unet.model_channels] * (count + (level < len(levels) - 1))
    context = next((value.shape[1] for name, value in unet.named_parameters() if name.endswith(KEYS)), None)
    label = unet.label_emb[0][0].in_features if isinstance(getattr(unet, "label_emb", None), nn.Sequential) else 0
    return Base(context=context, label=label, blocks=tuple(blocks))


def locate_in(unet: Any) -> Locate:
    """Return where the points of a U-Net are: at the layers of its blocks, for reForge and Classic call those alone."""
    widths = base_of(unet).blocks or ()
    blocks = {Block.INPUT: unet.input_blocks, Block.MIDDLE: [unet.middle_block], Block.OUTPUT: unet.output_blocks}

    def locate(point: Point) -> Site:
        if point.part is Part.SKIP:
            decoder = unet.output_blocks[len(unet.output_blocks) - 1 - point.index]
            return Site(decoder[0], Value.LAST_CHANNELS, widths[point.index])
        if point.part is Part.ONWARD:
            return Site([*unet.input_blocks, unet.middle_block][point.index + 1][0], Value.INPUT)
        block = blocks[point.block][point.index]
        if point.part is Part.STREAM:
            return Site(block[-1], Value.OUTPUT)
        transformer = next(layer for layer in block if hasattr(layer, "transformer_blocks"))
        return attention_site(transformer.transformer_blocks[point.depth], point.part)

    return locate


def layer_of(unet: nn.Module, name: str) -> tuple[Any, str] | None:
    """Return the layer that has a weight, by its bare ldm name, and what the layer calls it; None: there is no such."""
    path, _, part = name.rpartition(".")
    try:
        layer = unet.get_submodule(path)
    except AttributeError:
        return None
    return None if getattr(layer, part, None) is None else (layer, part)


def read_weight(unet: nn.Module, name: str, prepare: Callable[[Any], None]) -> Tensor | None:
    """Return a weight of a U-Net that is held as it is. prepare: what has to be done to its layer before."""
    found = layer_of(unet, name)
    if found is None:
        return None
    prepare(found[0])
    return getattr(*found).detach()
