"""Gradient checkpointing of our own networks: blocks are computed again for the gradients, and keep less meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint


def recompute(network: nn.Module, blocks: tuple[type[nn.Module], ...]) -> None:
    """Let every block of these types be computed again when its gradients are (Chen et al. 2016)."""
    for module in network.modules():
        if isinstance(module, blocks):
            module.forward = _checkpointed(module.forward)


def keep_all(network: nn.Module) -> None:
    """Undo `recompute`; in a copy of a network, whose blocks still compute the original's."""
    for module in network.modules():
        module.__dict__.pop("forward", None)


def _checkpointed(forward: Callable[..., Any]) -> Callable[..., Any]:
    def again(*args: Any) -> Any:
        return checkpoint(forward, *args, use_reentrant=False)

    return again
