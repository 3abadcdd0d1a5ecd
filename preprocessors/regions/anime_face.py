"""The parts of an anime face in flat colours, those of the control models for it.

Source: Anime-Face-Segmentation (siyeong0, 2021); the network is built in `anime_face_network.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..declaration import Output
from ..networks import weights
from ..networks.loading import load_network, to_tensor
from ..networks.network import Network
from ..perform import Preprocessor
from .labels import strongest

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

    from ..resize import Image
else:
    from ..lazy import np

FACE_COLOURS = (  # background, hair, eye, mouth, face, skin, clothes (sd-webui-controlnet)
    (255, 255, 0), (0, 0, 255), (255, 0, 0), (255, 255, 255), (0, 255, 0), (0, 255, 255), (255, 0, 255),
)  # fmt: skip


def anime_face(images: Image, network: nn.Module) -> Image:
    """Return each pixel in the colour of the likeliest part, [B, H, W, 3]."""
    import torch

    with torch.inference_mode():
        parts = strongest(network(to_tensor(images, network) / 255))
    return np.array(FACE_COLOURS, np.uint8)[parts.cpu().numpy()]


def _load_faces(path: Path) -> nn.Module:
    from .anime_face_network import FaceParts

    return load_network(path, FaceParts)


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
