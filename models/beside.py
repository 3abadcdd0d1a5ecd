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
        channels = _by_network(input, count).transpose(0, 1).flatten(1, 2)  # [B, networks * C, h, w]
        bias = None if self.bias is None else self.bias.flatten()
        out = F.conv2d(channels, self.weight.flatten(0, 1), bias, self.stride, self.padding, self.dilation, count)
        return out.reshape(len(out), count, -1, *out.shape[2:]).transpose(0, 1).flatten(0, 1)


class _GroupNorm(nn.GroupNorm):
    """Group normalisations, of which each network has its own scales."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (torch's name)
        normed = _by_network(F.group_norm(input, self.num_groups, eps=self.eps), len(self.weight))
        shifts, scales = (each[:, None, :, None, None] for each in (self.bias, self.weight))
        return torch.addcmul(shifts, normed, scales).flatten(0, 1)


class _LayerNorm(nn.LayerNorm):
    """Layer normalisations, of which each network has its own scales."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (torch's name)
        normed = _by_network(F.layer_norm(input, self.normalized_shape, eps=self.eps), len(self.weight))
        return torch.addcmul(self.bias[:, None, None], normed, self.weight[:, None, None]).flatten(0, 1)


def _by_network(rows: Tensor, count: int) -> Tensor:
    """Return rows [count * B, ...] as [count, B, ...]."""
    return rows.reshape(count, -1, *rows.shape[1:])


class BesideOps:
    """These layers, under the names of `torch.nn`."""

    Linear, Conv2d, GroupNorm, LayerNorm = _Linear, _Conv2d, _GroupNorm, _LayerNorm


def put_beside(networks: Sequence[Network], together: Network) -> Network:
    """Give a network of these layers the weights of networks of one shape, which are held once from then on.

    together: built of `BesideOps` in the shape of one of the networks, on the meta device. The networks' own weights
    become views of its weights and stay what they were.
    """
    for name in [name for name, _ in together.named_parameters()]:
        weights = [network.get_parameter(name) for network in networks]
        stacked = torch.stack([each.data for each in weights])
        layer, _, key = name.rpartition(".")
        setattr(together.get_submodule(layer), key, nn.Parameter(stacked, requires_grad=False))
        for weight, own in zip(weights, stacked, strict=True):
            weight.data = own
    return together.eval()
