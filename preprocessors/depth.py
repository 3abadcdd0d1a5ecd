"""Preprocessors that show depth: near is white.

Levels are spread over the range of the picture itself, in floats, after the padding was cut off. Source of the
network: MiDaS 3 (Ranftl et al.: Vision transformers for dense prediction, 2021), which predicts inverse depth.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# numpy declares some of its methods incompletely; what they return is declared here instead.

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from . import weights
from .base import Output, Preprocessor
from .loading import load_network, to_array, to_tensor
from .networks import Network
from .peers import INSTALL, PACKAGE, peer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

    from .base import Image
else:
    from .lazy import np


def to_levels(nearness: NDArray[np.float32], _image: Image | None = None, **_settings: float) -> Image:
    """Any measure that grows towards the viewer, [H, W], as levels: the farthest 0, the nearest 255."""
    lowest, highest = float(nearness.min()), float(nearness.max())
    if highest <= lowest:  # a wall: peers divide by zero here
        return np.zeros(nearness.shape, np.uint8)
    return np.rint((nearness - lowest) * (255 / (highest - lowest))).astype(np.uint8)


def midas(images: Image, network: nn.Module, **_settings: float) -> NDArray[np.float32]:
    """Inverse depth [B, H, W], in no unit."""
    import torch

    with torch.inference_mode():
        return to_array(network(to_tensor(images, network) / 127.5 - 1))


def _load_midas(path: Path) -> nn.Module:
    build = partial(peer("midas.midas.dpt_depth").DPTDepthModel, path=None, backbone="vitb_rn50_384")
    return load_network(path, build, meta=False)


MIDAS = Network(
    id="midas",
    files=(weights.MIDAS,),
    load=_load_midas,
    packages=(PACKAGE, "timm"),
    install=f"{INSTALL} timm",
    memory=3000,
)

DEPTH_MIDAS = Preprocessor(
    id="depth_midas",
    title="Depth (MiDaS)",
    doc="Relative depth by the network that the first depth models were trained with.",
    run=midas,
    finish=to_levels,
    output=Output.GRAY,
    polarity="near is white",
    aliases=("depth",),
    control_types=("Depth",),
    networks=(MIDAS,),
    batchable=True,
)
