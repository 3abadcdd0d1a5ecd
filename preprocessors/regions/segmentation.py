"""Preprocessors that show what is where: one flat colour for each class of things.

Sources: OneFormer (Jain et al., 2023) and Mask2Former (Cheng et al., 2022), through transformers. Both name a class and
a mask for each of many queries; a pixel belongs to the class that most queries, weighed by their masks, vote for.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# torch declares some functions incompletely; what they return is declared here instead.

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from ..declaration import Output
from ..networks.network import Network
from ..networks.pretrained import checkpoint, normalised, transformer
from ..perform import Preprocessor
from . import palettes
from .labels import strongest

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from ..resize import Image
else:
    from ..lazy import np

MATCHING = ("scipy",)  # these classes can be trained too, and then match queries to masks
CELL = 32  # pixels; the coarsest grid of these networks
# "the task is semantic" between start and end, as CLIP's vocabulary numbers its pieces: OneFormer reads its task.
TASK = 49406, 518, 10549, 533, 29119, 1550, 49407


def oneformer(images: Image, network: Any, *, palette: Callable[[], Image]) -> Image:
    """Return the colours of the classes, [B, H, W, 3]."""
    import torch

    pixels = normalised(images, network)
    task = torch.zeros(len(pixels), network.config.task_seq_len, dtype=torch.long, device=pixels.device)
    task[:, : len(TASK)] = torch.tensor(TASK, device=pixels.device)
    with torch.inference_mode():
        return _coloured(network(pixels, task.to(pixels.dtype)), pixels, palette())


def mask2former(images: Image, network: Any, *, palette: Callable[[], Image]) -> Image:
    """Return the colours of the classes, [B, H, W, 3]."""
    import torch

    pixels = normalised(images, network)
    with torch.inference_mode():
        return _coloured(network(pixels), pixels, palette())


def classes(queries: Tensor, masks: Tensor, size: Any) -> Tensor:
    """Return for each pixel the class with most votes, uint8 [B, H, W].

    `queries` are logits [B, Q, C + 1], the last class being none, and `masks` logits [B, Q, h, w].
    """
    import torch

    votes = torch.einsum("bqc,bqhw->bchw", queries.softmax(dim=-1)[..., :-1], masks.sigmoid())
    return strongest(votes, size)


def _coloured(found: Any, pixels: Tensor, palette: Image) -> Image:
    labels = classes(found.class_queries_logits, found.masks_queries_logits, pixels.shape[-2:])
    return np.asarray(palette[labels.cpu().numpy()])


def _entry(kind: str, title: str, doc: str, run: Any, network: Network, *aliases: str) -> Preprocessor:
    return Preprocessor(
        id=kind,
        title=title,
        doc=doc,
        run=run,
        output=Output.LABELS,
        aliases=aliases,
        control_types=("Segmentation",),
        networks=(network,),
        batchable=True,
        pad=CELL,
    )


def _oneformer(kind: str, repository: str) -> Network:
    files = checkpoint(repository, "MIT", file="pytorch_model.bin", megabytes=880)
    return transformer(kind, "OneFormerForUniversalSegmentation", files, since="4.27", memory=8000, packages=MATCHING)


SEG_OFADE20K = _entry(
    "seg_ofade20k",
    "Segmentation (OneFormer, ADE20K)",
    "150 classes of rooms, streets and landscapes, in the colours that all segmentation models know.",
    partial(oneformer, palette=palettes.ade20k),
    _oneformer("oneformer_ade20k", "shi-labs/oneformer_ade20k_swin_large"),
    "oneformer_ade20k",
)
SEG_OFCOCO = _entry(
    "seg_ofcoco",
    "Segmentation (OneFormer, COCO)",
    "133 classes of things and grounds, for models of ControlNet 1.1.",
    partial(oneformer, palette=palettes.coco),
    _oneformer("oneformer_coco", "shi-labs/oneformer_coco_swin_large"),
    "oneformer_coco",
)
SEG_M2FADE20K = _entry(
    "seg_m2fade20k",
    "Segmentation (Mask2Former, ADE20K)",
    "The 150 classes by a network of a third of the size.",
    partial(mask2former, palette=palettes.ade20k),
    transformer(
        "mask2former_ade20k",
        "Mask2FormerForUniversalSegmentation",
        checkpoint(
            "facebook/mask2former-swin-small-ade-semantic",
            "code MIT; weights: other",
            file="pytorch_model.bin",
            megabytes=276,
        ),
        since="4.27",
        memory=6000,
        packages=MATCHING,
    ),
    "mask2former_ade20k",
)
