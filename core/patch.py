"""Reversible changes to a network that is not ours.

`Patches` is an ExitStack: what is injected inside its `with` is ejected at its end in reverse order, also after an
exception or an interrupt, and the network is then exactly what it was: attributes that were not there are gone again,
weights have their old bytes.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Protocol

import torch
from torch import Tensor, nn

_MISSING = object()


class Handle(Protocol):
    """What PyTorch returns for a registered hook."""

    def remove(self) -> None: ...


class Patches:
    """Changes that last as long as the `with` block around them."""

    def __init__(self) -> None:
        self._stack = ExitStack()

    def __enter__(self) -> Patches:
        return self

    def __exit__(self, *_: object) -> None:
        self.eject()

    def eject(self) -> None:
        """Undo everything, newest first; calling it again does nothing."""
        self._stack.close()

    def attribute(self, owner: object, name: str, value: object) -> None:
        """Set an attribute of one object; its class is not touched."""
        before = vars(owner).get(name, _MISSING)
        self._stack.callback(_restore, owner, name, before)
        setattr(owner, name, value)

    def hook(self, handle: Handle) -> None:
        """Take over a hook that was just registered, to remove it in the end."""
        self._stack.callback(handle.remove)

    def add_to_weight(self, module: nn.Module, name: str, delta: Tensor) -> None:
        """Add `delta` to a parameter in place; the old values are kept, for subtracting them again would round."""
        parameter = module.get_parameter(name)
        if parameter.shape != delta.shape:
            raise ValueError(f"delta for '{name}' is {list(delta.shape)}, expected {list(parameter.shape)}")
        before = parameter.detach().clone()
        self._stack.callback(_copy_back, parameter, before)
        with torch.no_grad():
            parameter.add_(delta.to(parameter))


def _restore(owner: object, name: str, before: object) -> None:
    if before is _MISSING:
        delattr(owner, name)
    else:
        setattr(owner, name, before)


def _copy_back(parameter: Tensor, before: Tensor) -> None:
    with torch.no_grad():
        parameter.copy_(before)
