"""Convolutions of few pixels on a processor, as products of matrices.

oneDNN, which torch calls there, brings the weights into an order of its own at every call. With a ControlNet's widest
layers (59 MB of weights in fp32) on the few pixels of its deepest blocks that takes longer than the convolution itself.
A product of matrices reads the weights as they lie.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HEAVY = 2**23  # weights of a layer from which ordering them costs more than it saves
FEW = 256  # pixels of a batch up to which a product of matrices is no slower


class FewPixels(nn.Conv2d):
    """A convolution that takes the faster of two ways, by its number of weights and of pixels."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # noqa: A002 (torch's name)
        size = self._size(input) if self._heavy(input, weight) else None
        if size is None or len(input) * size[0] * size[1] > FEW:
            return super()._conv_forward(input, weight, bias)
        patches = F.unfold(input, self.kernel_size, self.dilation, cast("tuple[int, int]", self.padding), self.stride)
        matrix = weight.flatten(1)  # [out, in * kernel]; a patch is [in * kernel, pixels]
        rows = [matrix @ each if bias is None else torch.addmm(bias[:, None], matrix, each) for each in patches]
        return torch.stack(rows).reshape(len(rows), -1, *size)

    def _heavy(self, x: Tensor, weight: Tensor) -> bool:
        """Return whether a product of matrices is faster for few pixels; the compiler orders weights once."""
        heavy = x.device.type == "cpu" and weight.numel() >= HEAVY
        return heavy and self.groups == 1 and self.padding_mode == "zeros" and not _compiling()

    def _size(self, x: Tensor) -> tuple[int, int]:
        """Return height and width of what comes out."""
        return self._length(x.shape[-2], 0), self._length(x.shape[-1], 1)

    def _length(self, length: int, axis: int) -> int:
        padding, reach = cast(int, self.padding[axis]), self.dilation[axis] * (self.kernel_size[axis] - 1)
        return (length + 2 * padding - reach - 1) // self.stride[axis] + 1


def _compiling() -> bool:
    """Return whether PyTorch's compiler is at work; versions before 2.3, which WebUIs still bring, cannot say."""
    ask: Any = getattr(torch.compiler, "is_compiling", None)
    return ask is not None and ask()


class Layers(NamedTuple):
    """Kinds of layers, under the names of `torch.nn`."""

    Linear: Any
    Conv2d: Any
    GroupNorm: Any
    LayerNorm: Any


def for_few_pixels(ops: Any) -> Any:
    """Return a namespace of layers with convolutions that take the faster way."""
    return Layers(ops.Linear, _mixed(ops.Conv2d), ops.GroupNorm, ops.LayerNorm)


@cache
def _mixed(layer: type[nn.Conv2d]) -> type[nn.Conv2d]:
    return cast("type[nn.Conv2d]", type(layer.__name__, (FewPixels, layer), {}))
