"""Regions in flat colours: everything that looks like one thing, by the small Segment Anything.

Its colours mean nothing and are drawn from the seed, while other programs draw new ones at each run. Sources: Segment
Anything (Kirillov et al., 2023) with the encoder of MobileSAM (Zhang et al., 2023).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..declaration import Output, Parameter
from ..networks import weights
from ..networks.loading import load_network
from ..networks.network import Network
from ..networks.peers import PACKAGE, peer, unregistered
from ..perform import Preprocessor

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

    from ..resize import Image
else:
    from ..lazy import np

MODELS = "segment_anything"
KIND = "vit_t"  # MobileSAM's encoder


def segment(image: Image, network: nn.Module, points: int, seed: int) -> Image:
    """Return the regions around a grid of points, [H, W, 3], small ones on top of large ones."""
    import torch

    generator = peer(f"{MODELS}.automatic_mask_generator").SamAutomaticMaskGenerator
    with torch.inference_mode():
        found: Sequence[Mapping[str, Any]] = generator(network, points_per_side=points).generate(image)
    return paint([each["segmentation"] for each in found], (image.shape[0], image.shape[1]), seed)


def paint(masks: Sequence[Any], size: tuple[int, int], seed: int) -> Image:
    """Return masks [H, W] of bool in random colours on black, [H, W, 3], the largest first."""
    canvas = np.zeros((*size, 3), np.uint8)
    random = np.random.default_rng(seed)
    for mask in sorted(masks, key=lambda mask: -int(mask.sum())):
        canvas[mask] = random.integers(0, 255, 3, np.uint8)
    return canvas


def build() -> nn.Module:
    """Return MobileSAM without weights."""
    with unregistered("timm.models.registry"):
        kinds = peer(f"{MODELS}.build_sam").sam_model_registry
    return kinds[KIND]()


def _load(path: Path) -> nn.Module:
    return load_network(path, build, meta=False)


MOBILE_SAM_NETWORK = Network(
    id="mobile_sam",
    files=(weights.MOBILE_SAM,),
    load=_load,
    packages=(PACKAGE, "timm", "torchvision"),
    memory=8000,
)

MOBILE_SAM = Preprocessor(
    id="mobile_sam",
    title="Segments (MobileSAM)",
    doc="Every region in a colour of its own, without names.",
    run=segment,
    output=Output.LABELS,
    polarity="colours mean nothing; what is no region is black",
    aliases=("sam", "segment_anything"),
    control_types=("Segmentation",),
    parameters=(
        Parameter(name="points", label="Points per side", default=32, minimum=1, maximum=64, step=1,
                  doc="The picture is asked at so many points across and down; more find smaller regions."),
    ),
    networks=(MOBILE_SAM_NETWORK,),
    deterministic=False,
    pad=1,  # the network stretches the picture itself
)  # fmt: skip
