"""What the core may ask of the program it runs in."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

from torch import Tensor

from .control import ControlModel
from .errors import HostError


class Host(Protocol):
    """The program around a stack; each edge brings its own."""

    def ready(self, model: ControlModel) -> AbstractContextManager[object]:
        """Keep the model's network where it can compute while the context is open (low-VRAM hosts move it)."""
        ...

    def check_interrupt(self) -> None:
        """Raise the host's own interruption if the user asked to stop."""
        ...

    def encode(self, picture: Tensor) -> Tensor:
        """Return the latents of pictures [N, 3, H, W] in 0..1, scaled as the base network receives them."""
        ...

    def follow(self, model: ControlModel) -> bool:
        """Let the model follow the base network's present weights; return whether anything changed."""
        ...


class PlainHost:
    """A host that leaves every network where it is, is never interrupted, and has no autoencoder."""

    def ready(self, model: ControlModel) -> AbstractContextManager[object]:
        """Do nothing: the network stays where it is."""
        return nullcontext(model)

    def check_interrupt(self) -> None:
        """Do nothing: nobody interrupts."""

    def encode(self, picture: Tensor) -> Tensor:
        """Raise HostError: there is no autoencoder."""
        raise HostError("a control reads latents, and this program has no autoencoder to make them: leave it out")

    def follow(self, model: ControlModel) -> bool:
        """Raise HostError: there is no base network."""
        raise HostError(
            f"'{model.name}' takes weights of the base model, which this program does not show: leave it out"
        )
