"""Random weights in place of shapes, for what is timed."""

from __future__ import annotations

from typing import TypeVar

from torch import nn

Network = TypeVar("Network", bound=nn.Module)
SPREAD = 0.02  # small enough that no activation overflows


def filled(network: Network) -> Network:
    """Give a network on the meta device random weights on the CPU; the scales of the norms stay 1."""
    network.to_empty(device="cpu").eval().requires_grad_(False)
    for name, parameter in network.named_parameters():
        parameter.uniform_(-SPREAD, SPREAD)
        if parameter.ndim == 1 and name.endswith("weight"):
            parameter.fill_(1.0)
    return network
