"""Depth by networks of today, through transformers: near is white.

Sources: Depth Anything (Yang et al., 2024) and its version 2, which predict inverse depth up to a factor and a shift;
Depth Pro (Bochkovskii et al., 2024), which predicts inverse metric depth up to the focal length. Levels are spread
over the picture, so neither the factor nor the focal length matters.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# torch declares some functions incompletely; what they return is declared here instead.

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .base import Output, Preprocessor
from .depth import to_levels
from .loading import to_array
from .networks import Network
from .pretrained import HALVES, checkpoint, normalised, transformer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from .base import Image

PATCH = 14  # pixels of a patch of DINOv2
LARGEST = 74 * PATCH  # short side in pixels up to which it looks; it was trained at 37 patches, and attention is square
SIDE = 1536  # pixels of the square that Depth Pro looks at
MIT_LIKE, NOT_COMMERCIAL = "Apache-2.0", "CC-BY-NC-4.0: not for commercial use"


def depth_anything(images: Image, network: nn.Module) -> NDArray[np.float32]:
    """Inverse depth [B, H, W], in no unit."""
    import torch

    pixels = normalised(images, network)
    size = pixels.shape[-2:]
    with torch.inference_mode():
        inverse = _as_module(network)(_patches(pixels)).predicted_depth
        return to_array(_resized(inverse[:, None], size))[:, 0]


def depth_pro(images: Image, network: nn.Module) -> NDArray[np.float32]:
    """Inverse depth [B, H, W], in no unit; the picture is stretched to a square, as the network was trained."""
    import torch

    pixels = normalised(images, network, HALVES)
    with torch.inference_mode():
        inverse = _as_module(network)(_resized(pixels, _square(network))).predicted_depth
        return to_array(_resized(inverse[:, None], pixels.shape[-2:]))[:, 0]


def _patches(pixels: Tensor) -> Tensor:
    """Whole patches, and not more of them than the network can use."""
    height, width = pixels.shape[-2:]
    scale = min(1.0, LARGEST / min(height, width))
    size = tuple(max(1, round(side * scale / PATCH)) * PATCH for side in (height, width))
    return _resized(pixels, size, mode="bicubic")


def _resized(pixels: Tensor, size: Any, mode: str = "bilinear") -> Tensor:
    from torch.nn import functional

    if tuple(pixels.shape[-2:]) == tuple(size):
        return pixels
    return functional.interpolate(pixels, tuple(size), mode=mode, align_corners=False, antialias=mode == "bicubic")


def _square(network: nn.Module) -> tuple[int, int]:
    """Four patches of 384 pixels for the published network."""
    config: Any = network.config
    side = int(config.patch_size * SIDE / 384)
    return side, side


def _as_module(network: Any) -> Any:
    return network


def _depth(kind: str, title: str, doc: str, run: Any, network: Network, pad: int, *aliases: str) -> Preprocessor:
    return Preprocessor(
        id=kind,
        title=title,
        doc=doc,
        run=run,
        finish=to_levels,
        output=Output.GRAY,
        polarity="near is white",
        aliases=aliases,
        control_types=("Depth",),
        networks=(network,),
        batchable=True,
        pad=pad,
    )


def _anything(kind: str, title: str, doc: str, repository: str, licence: str, sha256: str = "") -> Preprocessor:
    files = checkpoint(repository, licence, sha256=sha256)
    network = transformer(kind, "DepthAnythingForDepthEstimation", files, since="4.48")
    return _depth(kind, title, doc, depth_anything, network, PATCH)


DEPTH_ANYTHING_V2 = _anything(
    "depth_anything_v2",
    "Depth Anything V2 (small)",
    "Fine and fast relative depth; the first choice.",
    "depth-anything/Depth-Anything-V2-Small-hf",
    MIT_LIKE,
    "3152477ce0d8d6978d76b995120de97cb5b928701fd0f817769f59e249a16b70",
)
DEPTH_ANYTHING_V2_BASE = _anything(
    "depth_anything_v2_base",
    "Depth Anything V2 (base)",
    "The same with four times the weights.",
    "depth-anything/Depth-Anything-V2-Base-hf",
    NOT_COMMERCIAL,
)
DEPTH_ANYTHING_V2_LARGE = _anything(
    "depth_anything_v2_large",
    "Depth Anything V2 (large)",
    "The same with thirteen times the weights.",
    "depth-anything/Depth-Anything-V2-Large-hf",
    NOT_COMMERCIAL,
)
DEPTH_ANYTHING = _anything(
    "depth_anything",
    "Depth Anything V1 (small)",
    "Relative depth by the first version, softer than the second.",
    "LiheYoung/depth-anything-small-hf",
    MIT_LIKE,
)
DEPTH_ANYTHING_BASE = _anything(
    "depth_anything_base",
    "Depth Anything V1 (base)",
    "The same with four times the weights.",
    "LiheYoung/depth-anything-base-hf",
    MIT_LIKE,
)
DEPTH_ANYTHING_LARGE = _anything(
    "depth_anything_large",
    "Depth Anything V1 (large)",
    "The same with thirteen times the weights.",
    "LiheYoung/depth-anything-large-hf",
    MIT_LIKE,
)
DEPTH_PRO = _depth(
    "depth_pro",
    "Depth Pro",
    "Sharp depth with fine borders; slow, for it looks at many windows of the picture.",
    depth_pro,
    transformer(
        "depth_pro",
        "DepthProForDepthEstimation",
        checkpoint("apple/DepthPro-hf", "Apple's research licence: not for commercial use"),
        since="4.49",
        memory=8000,
    ),
    1,
)
