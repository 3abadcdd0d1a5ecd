"""Depth Pro, through transformers: near is white.

Source: Bochkovskii et al., Depth Pro, 2024. It predicts inverse metric depth up to the focal length; levels are spread
over the picture, so the focal length does not matter, and the third of the network that guesses it is left out.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# torch declares some functions incompletely; what they return is declared here instead.

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..declaration import Output
from ..networks.loading import to_array
from ..networks.pretrained import HALVES, checkpoint, normalised, transformer
from ..perform import Preprocessor
from .depth import to_levels

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from ..resize import Image

SIDE = 1536  # pixels of the square that Depth Pro looks at


def depth_pro(images: Image, network: Any) -> NDArray[np.float32]:
    """Return inverse depth [B, H, W], in no unit; the picture is stretched to a square, as the network was trained."""
    import torch

    pixels = normalised(images, network, HALVES)
    with torch.inference_mode():
        inverse = network(_resized(pixels, _square(network))).predicted_depth
        return to_array(_resized(inverse[:, None], pixels.shape[-2:]))[:, 0]


def _resized(pixels: Tensor, size: Any) -> Tensor:
    from torch.nn import functional

    return functional.interpolate(pixels, tuple(size), mode="bilinear", align_corners=False)


def _square(network: Any) -> tuple[int, int]:
    """Return height and width of the square: four patches of 384 pixels for the published network."""
    side = int(network.config.patch_size * SIDE / 384)
    return side, side


DEPTH_PRO = Preprocessor(
    id="depth_pro",
    title="Depth Pro",
    doc="Sharp depth with fine borders; slow, for it looks at many windows of the picture.",
    run=depth_pro,
    finish=to_levels,
    output=Output.GRAY,
    polarity="near is white",
    control_types=("Depth",),
    networks=(
        transformer(
            "depth_pro",
            "DepthProForDepthEstimation",
            checkpoint("apple/DepthPro-hf", "Apple's research licence: not for commercial use", megabytes=1900),
            since="4.49",
            memory=8000,
            without=("use_fov_model",),
        ),
    ),
    batchable=True,
    pad=1,
)
