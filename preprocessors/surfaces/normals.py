"""Preprocessors that show surface normals: the direction that each point of a surface faces.

Two conventions exist. Models of ControlNet 1.1 were trained with Bae's maps: red is left, green is up, blue is towards
the viewer. Those of 1.0 were trained with slopes of MiDaS' depth in the order z, y, x.
Source: Bae, Budvytis, Cipolla: Estimating and exploiting the aleatoric uncertainty in surface normals, 2021.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# numpy declares some of its methods incompletely; what they return is declared here instead.

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

from ..declaration import Output, Parameter
from ..networks import weights
from ..networks.loading import load_network, to_array, to_tensor
from ..networks.network import Network
from ..networks.peers import PACKAGE, peer
from ..perform import Preprocessor
from .depth import DEVIATION, MEAN, MIDAS, midas

if TYPE_CHECKING:
    import cv2
    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

    from ..resize import Image
else:
    from ..lazy import cv2, np

TOWARDS = 6.283185307179586  # z beside slopes of MiDaS' depth: 2 pi (ControlNet 1.0)
BAE = SimpleNamespace(mode="client", architecture="BN", sampling_ratio=0.4, importance_ratio=0.7)  # of scannet.pt


def _bae(images: Image, network: nn.Module) -> Image:
    import torch

    pixels = to_tensor(images, network) / 255
    mean, deviation = (pixels.new_tensor(each)[:, None, None] for each in (MEAN, DEVIATION))
    with torch.inference_mode():
        normals = to_array(network((pixels - mean) / deviation)[0][-1][:, :3])
    return (((normals + 1) / 2).clip(0, 1) * 255).transpose(0, 2, 3, 1).astype(np.uint8)


def _from_midas(nearness: NDArray[np.float32], _image: Image, background: float) -> Image:
    """Return normals [H, W, 3] from inverse depth [H, W]: slopes, flat where it lies under a share of its range."""
    spread = float(nearness.max()) - float(nearness.min())
    share = (nearness - nearness.min()) / (spread or 1.0)
    x, y = (np.asarray(cv2.Sobel(nearness, cv2.CV_32F, *order, ksize=3)) for order in ((1, 0), (0, 1)))
    flat = share < background
    x, y = np.where(flat, 0, x), np.where(flat, 0, y)
    normals = np.stack([np.full_like(x, TOWARDS), y, x], axis=2)
    normals /= np.sqrt((normals**2).sum(axis=2, keepdims=True))
    return (normals * 127.5 + 127.5).clip(0, 255).astype(np.uint8)


def _load_bae(path: Path) -> nn.Module:
    build = peer("normalbae.nets.NNET").NNET

    def quiet() -> nn.Module:
        with contextlib.redirect_stdout(io.StringIO()):  # it talks
            return build(BAE)

    return load_network(path, quiet, meta=False)


NETWORK = Network(
    id="normal_bae",
    files=(weights.NORMAL_BAE,),
    load=_load_bae,
    packages=(PACKAGE,),
    memory=2500,
)

NORMAL_BAE = Preprocessor(
    id="normal_bae",
    title="Normals (Bae)",
    doc="Surface normals for models of ControlNet 1.1.",
    run=_bae,
    output=Output.RGB,
    polarity="red is left, green is up, blue is towards the viewer",
    control_types=("NormalMap",),
    networks=(NETWORK,),
    batchable=True,
)

NORMAL_MIDAS = Preprocessor(
    id="normal_midas",
    title="Normals (MiDaS)",
    doc="Normals from MiDaS' depth, for models of ControlNet 1.0.",
    run=midas,
    finish=_from_midas,
    output=Output.RGB,
    polarity="red is towards the viewer, green and blue are the slopes",
    aliases=("normal_map",),
    control_types=("NormalMap",),
    parameters=(
        Parameter(name="background", label="Background threshold", default=0.4, minimum=0.0, maximum=1.0, step=0.01,
                  doc="Share of the depth's range below which a point counts as background, which is flat."),
    ),
    networks=(MIDAS,),
    batchable=True,
)  # fmt: skip
