"""Networks of one shape in one call: layers that compute for several networks at once.

A network that is built of these layers holds the weights of all, each as [networks, ...], and its rows come network by
network: [networks * B, ...]. Where layers are so small that calling them takes longer than their arithmetic, one call
for all is faster; where they are large it is not, since a convolution in groups is slower than one without.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Network = TypeVar("Network", bound=nn.Module)


class _Linear(nn.Linear):
    """Linear layers as one product of batches."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (torch's name)
        rows = input.reshape(len(self.weight), -1, input.shape[-1])
        matrices, bias = self.weight.transpose(1, 2), getattr(self, "bias", None)
        out = rows @ matrices if bias is None else torch.baddbmm(bias[:, None], rows, matrices)
        return out.reshape(*input.shape[:-1], -1)


class _Conv2d(nn.Conv2d):
    """Convolutions as one in groups, in whose channels the networks lie beside each other."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (torch's name)
        count = len(self.weight)
        channels = input.unflatten(0, (count, -1)).transpose(0, 1).flatten(1, 2)  # [B, networks * C, h, w]
        bias = None if self.bias is None else self.bias.flatten()
        out = F.conv2d(channels, self.weight.flatten(0, 1), bias, self.stride, self.padding, self.dilation, count)
        return out.unflatten(1, (count, -1)).transpose(0, 1).flatten(0, 1)


class _GroupNorm(nn.GroupNorm):
    """Group normalisations, of which each network has its own scales."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (torch's name)
        normed = F.group_norm(input, self.num_groups, eps=self.eps).unflatten(0, (len(self.weight), -1))
        shifts, scales = (each[:, None, :, None, None] for each in (self.bias, self.weight))
        return torch.addcmul(shifts, normed, scales).flatten(0, 1)


class _LayerNorm(nn.LayerNorm):
    """Layer normalisations, of which each network has its own scales."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (torch's name)
        normed = F.layer_norm(input, self.normalized_shape, eps=self.eps).unflatten(0, (len(self.weight), -1))
        return torch.addcmul(self.bias[:, None, None], normed, self.weight[:, None, None]).flatten(0, 1)


class BesideOps:
    """These layers, under the names of `torch.nn`."""

    Linear, Conv2d, GroupNorm, LayerNorm = _Linear, _Conv2d, _GroupNorm, _LayerNorm


def put_beside(networks: Sequence[Network], together: Network) -> Network:
    """Give a network of these layers the weights of networks of one shape, which are held once from then on.

    together: built of `BesideOps` in the shape of one of the networks, on the meta device. The networks' own weights
    become views of its weights and stay what they were.
    """
    for name, layer in together.named_modules():
        owners = [network.get_submodule(name) for network in networks]
        for key in [key for key, _ in layer.named_parameters(recurse=False)]:
            stacked = torch.stack([getattr(owner, key).data for owner in owners])
            setattr(layer, key, nn.Parameter(stacked, requires_grad=False))
            for owner, own in zip(owners, stacked, strict=True):
                getattr(owner, key).data = own
    return together.eval()
