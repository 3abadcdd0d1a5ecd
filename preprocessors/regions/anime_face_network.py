"""The network that tells the parts of an anime face from each other.

No package carries it, so it is built here; names of layers are those of its weights. MobileNetV2 (of torchvision) finds
features at five sizes, and a decoder enlarges them again. Source: Anime-Face-Segmentation (siyeong0, 2021).
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

PARTS = 7  # background, hair, eye, mouth, face, skin, clothes
STAGES = (0, 2, 4, 7, 14, 17)  # where the blocks of MobileNetV2 are parted; its last two are not used
WIDTHS = (16, 24, 32, 96, 160)  # channels after each part
SLOPE = 0.1


class FaceParts(nn.Module):
    """RGB [B, 3, H, W], 0 to 1 -> probabilities [B, 7, H, W]."""

    def __init__(self) -> None:
        from torchvision.models import mobilenet_v2  # pyright: ignore[reportMissingImports, reportUnknownVariableType]

        super().__init__()
        blocks = mobilenet_v2(weights=None).features  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        for number, (first, last) in enumerate(pairwise(STAGES)):
            self.add_module(f"en_block{number}", nn.Sequential(*blocks[first:last]))  # pyright: ignore[reportUnknownArgumentType]
        for number, width in enumerate(WIDTHS):
            merged = width if number == len(WIDTHS) - 1 else 2 * width
            result = WIDTHS[number - 1] if number else PARTS
            last_layers = [nn.InstanceNorm2d(result), nn.LeakyReLU(SLOPE)] if number else [nn.Softmax2d()]
            layers = [nn.UpsamplingNearest2d(scale_factor=2), nn.Conv2d(merged, result, 3, padding=1), *last_layers]
            self.add_module(f"de_block{number}", nn.Sequential(*layers))

    def forward(self, pixels: Tensor) -> Tensor:
        features: list[Tensor] = []
        x = pixels
        for number in range(len(WIDTHS)):
            x = self.get_submodule(f"en_block{number}")(x)
            features.append(x)
        for number in range(len(WIDTHS) - 1, 0, -1):
            x = self.get_submodule(f"de_block{number}")(x)
            beside = features[number - 1]
            x = functional.interpolate(x, beside.shape[2:], mode="bilinear", align_corners=True)
            x = torch.cat([x, beside], dim=1)
        return self.get_submodule("de_block0")(x)
