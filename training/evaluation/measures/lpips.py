"""LPIPS: how far apart two pictures are for a network that sees (Zhang et al. 2018), with AlexNet.

The features of five layers are brought to length 1 at every place; their squared differences, weighted by channel and
averaged over the places, are summed. The weights by channel come with torchmetrics, AlexNet's from a local file in
torchvision's form (alexnet-owt-7be5be79.pth); torchmetrics' own LPIPS would need torchvision, and fetch it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....core.errors import ModelError
from ....models.files.loading import read_tensors
from .measure import Image

SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # of pictures in -1..1
LAYERS = (
    (0, 3, 64, 11, 4, 2),
    (3, 64, 192, 5, 1, 2),
    (6, 192, 384, 3, 1, 1),
    (8, 384, 256, 3, 1, 1),
    (10, 256, 256, 3, 1, 1),
)
POOLED = (3, 6)  # layers before which the maximum of 3x3 places is taken
EPSILON = 1e-8
SMALLEST = 64  # pixels of a side; after AlexNet's strides less would be nothing
PREFIX = "features."  # of the convolutions in torchvision's files


class AlexNet(nn.Module):
    """The convolutions of AlexNet by torchvision's names: pictures [N, 3, H, W] -> the features of five layers."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.ModuleDict(
            {
                str(number): nn.Conv2d(read, given, kernel, stride, padding)
                for number, read, given, kernel, stride, padding in LAYERS
            }
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return [N, C, h, w] behind the rectifier of each convolution."""
        seen: list[Tensor] = []
        for name, convolution in self.features.items():
            x = F.relu(convolution(F.max_pool2d(x, 3, 2) if int(name) in POOLED else x))
            seen.append(x)
        return seen


class Lpips(nn.Module):
    """The distance between two pictures."""

    def __init__(self, network: AlexNet, weights: list[Tensor]) -> None:
        """weights: of the channels of each layer, [C]."""
        super().__init__()
        self._network, self._weights = network.eval(), weights

    @torch.no_grad()
    def forward(self, one: Image, other: Image) -> float:
        """Return the distance of two pictures [H, W, 3] of one size."""
        both = zip(self._seen(one), self._seen(other), self._weights, strict=True)
        return sum(float(((a - b).square() * weight[None, :, None, None]).sum(1).mean()) for a, b, weight in both)

    def _seen(self, picture: Image) -> list[Tensor]:
        x = torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)[None].float() / 127.5 - 1
        if min(x.shape[2:]) < SMALLEST:
            x = F.interpolate(x, scale_factor=SMALLEST / min(x.shape[2:]), mode="nearest")
        shift, scale = (torch.tensor(each)[None, :, None, None] for each in (SHIFT, SCALE))
        return [
            each / (each.square().sum(1, keepdim=True).sqrt() + EPSILON) for each in self._network((x - shift) / scale)
        ]


def load_lpips(path: Path) -> Lpips:
    """Return LPIPS with the AlexNet of a file of torchvision's; ModelError for another file."""
    network = AlexNet()
    found = {name: each for name, each in read_tensors(path).items() if name.startswith(PREFIX)}
    try:
        network.load_state_dict(found)
    except RuntimeError as error:
        raise ModelError(
            f"'{path}' is no AlexNet of torchvision: give its file alexnet-owt-7be5be79.pth as --lpips"
        ) from error
    return Lpips(network, channel_weights())


def channel_weights() -> list[Tensor]:
    """Return the weights of the channels [C] of each layer, which torchmetrics brings along."""
    import torchmetrics.functional.image as metrics

    file = Path(metrics.__file__).parent / "lpips_models" / "alex.pth"
    state = torch.load(file, map_location="cpu", weights_only=True)
    return [state[f"lin{index}.model.1.weight"].flatten() for index in range(len(LAYERS))]
