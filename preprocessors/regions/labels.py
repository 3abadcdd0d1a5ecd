"""From maps of how much each label is wanted to the label of each pixel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def strongest(planes: Tensor, size: Any = None) -> Tensor:
    """Return which of the planes [B, C, h, w], C up to 256, is highest, the first of equals, as uint8 [B, H, W].

    With `size` (height, width) the planes are enlarged first, one by one: all of them at a picture's full size are
    hundreds of megabytes, and PyTorch's own argmax across planes takes several times as long.
    """
    import torch

    highest = _sized(planes[:, :1], size)[:, 0].clone()
    label = torch.zeros_like(highest, dtype=torch.uint8)
    for number in range(1, planes.shape[1]):
        plane = _sized(planes[:, number : number + 1], size)[:, 0]
        label.masked_fill_(plane > highest, number)
        torch.maximum(highest, plane, out=highest)
    return label


def _sized(plane: Tensor, size: Any) -> Tensor:
    from torch.nn import functional

    if size is None:
        return plane
    return functional.interpolate(plane, size=tuple(size), mode="bilinear", align_corners=False)
