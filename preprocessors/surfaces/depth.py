"""Preprocessors that show depth by the networks of the first depth models: near is white.

Levels are spread over the range of the picture itself, in floats, after the padding was cut off. Sources: MiDaS 3
(Ranftl et al.: Vision transformers for dense prediction, 2021), which predicts inverse depth; LeReS (Yin et al.:
Learning to recover 3D scene shape from a single image, 2021) and ZoeDepth (Bhat et al., 2023), which predict distances.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# numpy declares some of its methods incompletely; what they return is declared here instead.

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..declaration import Output, Parameter
from ..networks import weights
from ..networks.loading import load_network, to_array, to_tensor
from ..networks.network import Network
from ..networks.peers import PACKAGE, peer
from ..perform import Preprocessor

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

    from ..resize import Image
else:
    from ..lazy import np


MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's RGB in 0..1
ZOE_RANGE = 2, 85  # percentiles (ControlNet 1.1)
COMPUTED = "relative_position_index"


def to_levels(nearness: NDArray[np.float32], _image: Image | None = None, **_settings: float) -> Image:
    """Return a measure that grows towards the viewer, [H, W], as levels: the farthest 0, the nearest 255."""
    lowest, highest = float(nearness.min()), float(nearness.max())
    if highest <= lowest:  # a wall: peers divide by zero here
        return np.zeros(nearness.shape, np.uint8)
    return np.rint((nearness - lowest) * (255 / (highest - lowest))).astype(np.uint8)


def midas(images: Image, network: nn.Module, **_settings: float) -> NDArray[np.float32]:
    """Return inverse depth [B, H, W], in no unit."""
    import torch

    with torch.inference_mode():
        return to_array(network(to_tensor(images, network) / 127.5 - 1))


def leres(images: Image, network: nn.Module, **_settings: float) -> NDArray[np.float32]:
    """Return distance [B, H, W], in no unit. Read as its authors do; peers leave pixels at 0..255, blue first."""
    import torch

    pixels = to_tensor(images, network) / 255
    mean, deviation = (pixels.new_tensor(each)[:, None, None] for each in (MEAN, DEVIATION))
    with torch.inference_mode():
        return to_array(network((pixels - mean) / deviation))[:, 0]


def leres_levels(distance: NDArray[np.float32], _image: Image, near: float, background: float) -> Image:
    """Return levels [H, W]: what is nearer than `near` % of the range is white, the farthest `background` % black."""
    spread = float(distance.max()) - float(distance.min())
    if spread <= 0:
        return np.zeros(distance.shape, np.uint8)
    share = (distance - distance.min()) / spread
    nearness = np.where(share <= near / 100, 1, 1 - share)
    return np.rint(np.where(nearness <= background / 100, 0, nearness) * 255).astype(np.uint8)


def zoe(images: Image, network: Any) -> NDArray[np.float32]:
    """Return distance [B, H, W] in metres, from the picture and its mirror image."""
    import torch

    with torch.inference_mode():
        return to_array(network.infer(to_tensor(images, network) / 255))[:, 0]


def zoe_levels(distance: NDArray[np.float32], _image: Image) -> Image:
    """Return levels [H, W] from the 2nd percentile, white, to the 85th, black, constant beyond both."""
    nearest, farthest = np.percentile(distance, ZOE_RANGE)
    if farthest <= nearest:
        return np.zeros(distance.shape, np.uint8)
    return np.rint((1 - (distance - nearest) / (farthest - nearest)).clip(0, 1) * 255).astype(np.uint8)


def _load_leres(path: Path) -> nn.Module:
    depth = peer("leres.leres.multi_depth_model_woauxi").DepthModel
    return load_network(path, partial(depth, "resnext101_stride32x8d"), lambda key: key.partition("depth_model.")[2])


def _load_zoe(path: Path) -> nn.Module:
    """Return the network without tables that some files have and newer versions of timm compute themselves."""
    return load_network(path, _build_zoe, lambda key: "" if key.endswith(COMPUTED) else key, meta=False)


def _build_zoe() -> nn.Module:
    """Build the network without torch.hub, which its own way needs, and which leaves foreign modules behind."""
    models = "zoe.zoedepth.models"
    settings = peer("zoe.zoedepth.utils.config").get_config("zoedepth", "infer")
    core = peer(f"{models}.base_models.midas").MidasCore
    depth = peer(f"{models}.base_models.midas_repo.midas.dpt_depth").DPTDepthModel
    network = depth(path=None, backbone="beitl16_384", non_negative=True)
    looking = core(network, trainable=False, img_size=settings["img_size"], keep_aspect_ratio=True)
    looking.set_output_channels("DPT_BEiT_L_384")
    return peer(f"{models}.zoedepth.zoedepth_v1").ZoeDepth(looking, **settings)


def _load_midas(path: Path) -> nn.Module:
    build = partial(peer("midas.midas.dpt_depth").DPTDepthModel, path=None, backbone="vitb_rn50_384")
    return load_network(path, build, meta=False)


MIDAS = Network(
    id="midas",
    files=(weights.MIDAS,),
    load=_load_midas,
    packages=(PACKAGE, "timm"),
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

LERES = Network(id="leres", files=(weights.LERES,), load=_load_leres, packages=(PACKAGE,), memory=3000)
ZOE = Network(
    id="zoe",
    files=(weights.ZOE,),
    load=_load_zoe,
    packages=(PACKAGE, "timm", "torchvision"),
    memory=8000,
)

DEPTH_LERES = Preprocessor(
    id="depth_leres",
    title="Depth (LeReS)",
    doc="Relative depth with much detail in the background.",
    run=leres,
    finish=leres_levels,
    output=Output.GRAY,
    polarity="near is white",
    control_types=("Depth",),
    parameters=(
        Parameter(name="near", label="Remove near", default=0.0, minimum=0.0, maximum=100.0, step=0.1, unit="%",
                  doc="What lies in this part of the range becomes white."),
        Parameter(name="background", label="Remove background", default=0.0, minimum=0.0, maximum=100.0, step=0.1,
                  unit="%", doc="What lies in this part of the range, at its far end, becomes black."),
    ),
    networks=(LERES,),
    batchable=True,
)  # fmt: skip

DEPTH_ZOE = Preprocessor(
    id="depth_zoe",
    title="Depth (Zoe)",
    doc="Depth by a network that was trained with indoor distances in metres.",
    run=zoe,
    finish=zoe_levels,
    output=Output.GRAY,
    polarity="near is white",
    control_types=("Depth",),
    networks=(ZOE,),
    batchable=True,
    pad=1,  # the network looks at 384 x 512 pixels in any case
)
