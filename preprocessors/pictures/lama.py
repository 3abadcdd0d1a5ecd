"""LaMa: what is masked is filled with what plausibly lies behind, as a start for a model that invents it anew.

The network sees the picture with a short side of 256 pixels, as it was trained, and its filling is enlarged. Source:
Suvorov et al., Resolution-robust large mask inpainting with Fourier convolutions, 2022; sd-webui-controlnet's
`inpaint_only+lama`. The network's class is spandrel's, which all hosts have.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# spandrel and numpy declare some functions incompletely; what they return is declared here instead.

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ...core.errors import MissingDependencyError
from ..declaration import Output
from ..networks import weights
from ..networks.loading import fill, read_state, to_array, to_tensor
from ..networks.network import Network
from ..perform import Preprocessor
from ..resize import MASK_ON, pad_to_multiple, resize_mask, scale_short_side

if TYPE_CHECKING:
    import cv2
    import numpy as np
    from torch import nn

    from ..resize import Image
else:
    from ..lazy import cv2, np

SIDE = 256  # pixels of the short side at which the network looks
CELL = 64  # pixels; sides are filled up to a multiple, as everywhere
OUTER = "model.model."  # how spandrel's class names the network
PART = "generator."  # of a training checkpoint, what invents; the others judged it


def inpaint(image: Image, network: nn.Module, mask: Image) -> Image:
    """Return the picture with its masked part filled, and the mask, [H, W, 4]."""
    height, width = image.shape[:2]
    small = scale_short_side(image, SIDE)
    hole = resize_mask(mask, (small.shape[0], small.shape[1]))
    filled = _filled(pad_to_multiple(small, CELL), pad_to_multiple(hole, CELL), network)
    filled = filled[: small.shape[0], : small.shape[1]]
    large = np.asarray(cv2.resize(filled, (width, height), interpolation=cv2.INTER_CUBIC), np.float32)
    share = mask[..., None].astype(np.float32) / 255
    return np.dstack([np.rint(large * share + image * (1 - share)).clip(0, 255).astype(np.uint8), mask])


def _filled(image: Image, mask: Image, network: nn.Module) -> Image:
    import torch

    hole = to_tensor(mask[None, ..., None], network).ge(MASK_ON).float()
    with torch.inference_mode():
        result = to_array(network(to_tensor(image[None], network) / 255, hole))[0]
    return (result.transpose(1, 2, 0) * 255).clip(0, 255).astype(np.uint8)


def _load(path: Path) -> nn.Module:
    import torch

    try:
        kind: Any = importlib.import_module("spandrel.architectures.LaMa").LaMa
    except (ImportError, AttributeError) as error:
        raise MissingDependencyError(f"the installed spandrel cannot be used ({error})") from error
    state = read_state(path)
    if any(key.startswith(PART) for key in state):
        state = {key.removeprefix(PART): each for key, each in state.items() if key.startswith(PART)}
    if not any(key.startswith(OUTER) for key in state):
        state = {f"model.{key}": each for key, each in state.items()}
    with torch.device("meta"):
        network = cast("nn.Module", kind(in_nc=4, out_nc=3))
    return fill(network, state, path)


NETWORK = Network(id="lama", files=(weights.LAMA,), load=_load, packages=("spandrel", "torchvision"), memory=4000)

INPAINT_LAMA = Preprocessor(
    id="inpaint_only+lama",
    title="Inpaint only + LaMa",
    doc="Picture and mask, the masked part filled with what plausibly lies behind it.",
    run=inpaint,
    output=Output.MASKED,
    control_types=("Inpaint",),
    networks=(NETWORK,),
    takes_mask=True,
    resizes=False,
    pad=1,
)
