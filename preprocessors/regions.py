"""Regions in flat colours: everything that looks like one thing, and the parts of an anime face.

Sources: Segment Anything (Kirillov et al., 2023) with the small encoder of MobileSAM (Zhang et al., 2023); its colours
mean nothing and are drawn from the seed, while other programs draw new ones at each run. Anime-Face-Segmentation
(siyeong0, 2021); its colours are those of the models for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import weights
from .base import Output, Parameter, Preprocessor
from .loading import load_network, to_tensor
from .networks import Network
from .peers import INSTALL, PACKAGE, peer, unregistered

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

    from .base import Image
else:
    from .lazy import np

FACE_COLOURS = (  # background, hair, eye, mouth, face, skin, clothes (sd-webui-controlnet)
    (255, 255, 0), (0, 0, 255), (255, 0, 0), (255, 255, 255), (0, 255, 0), (0, 255, 255), (255, 0, 255),
)  # fmt: skip
MODELS = "segment_anything"
KIND = "vit_t"  # MobileSAM's encoder


def segment(image: Image, network: nn.Module, points: int, seed: int) -> Image:
    """[H, W, 3]: the regions around a grid of points, small ones on top of large ones."""
    import torch

    generator = peer(f"{MODELS}.automatic_mask_generator").SamAutomaticMaskGenerator
    with torch.inference_mode():
        found: Sequence[Mapping[str, Any]] = generator(network, points_per_side=points).generate(image)
    return paint([each["segmentation"] for each in found], (image.shape[0], image.shape[1]), seed)


def paint(masks: Sequence[Any], size: tuple[int, int], seed: int) -> Image:
    """Masks [H, W] of bool in random colours on black, the largest first."""
    canvas = np.zeros((*size, 3), np.uint8)
    random = np.random.default_rng(seed)
    for mask in sorted(masks, key=lambda mask: -int(mask.sum())):
        canvas[mask] = random.integers(0, 255, 3, np.uint8)
    return canvas


def anime_face(images: Image, network: nn.Module) -> Image:
    """[B, H, W, 3]: each pixel in the colour of the likeliest part."""
    import torch

    with torch.inference_mode():
        parts = network(to_tensor(images, network) / 255).argmax(dim=1)
    return np.array(FACE_COLOURS, np.uint8)[parts.cpu().numpy()]


def build() -> nn.Module:
    """MobileSAM without weights."""
    with unregistered("timm.models.registry"):
        kinds = peer(f"{MODELS}.build_sam").sam_model_registry
    return kinds[KIND]()


def _load(path: Path) -> nn.Module:
    return load_network(path, build, meta=False)


def _load_faces(path: Path) -> nn.Module:
    from .anime_faces import FaceParts

    return load_network(path, FaceParts)


MOBILE_SAM_NETWORK = Network(
    id="mobile_sam",
    files=(weights.MOBILE_SAM,),
    load=_load,
    packages=(PACKAGE, "timm", "torchvision"),
    install=f"{INSTALL} timm torchvision",
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

ANIME_FACES = Network(
    id="anime_faces", files=(weights.ANIME_FACES,), load=_load_faces, packages=("torchvision",), memory=1000
)

SEG_ANIME_FACE = Preprocessor(
    id="seg_anime_face",
    title="Segments (anime face)",
    doc="Hair, eyes, mouth, face, skin and clothes of one anime face; made for a resolution of 512.",
    run=anime_face,
    output=Output.LABELS,
    polarity="a colour for each part; the background is yellow",
    aliases=("anime_face_segment",),
    control_types=("Segmentation",),
    networks=(ANIME_FACES,),
    batchable=True,
)
