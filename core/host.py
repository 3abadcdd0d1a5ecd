"""What the core may ask of the program it runs in."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

from .unit import ControlModel


class Host(Protocol):
    """The program around a stack; each edge brings its own."""

    def ready(self, model: ControlModel) -> AbstractContextManager[object]:
        """Keep the model's network where it can compute while the context is open (low-VRAM hosts move it)."""
        ...

    def check_interrupt(self) -> None:
        """Raise the host's own interruption if the user asked to stop."""
        ...


class PlainHost:
    """A host that leaves every network where it is and is never interrupted."""

    def ready(self, model: ControlModel) -> AbstractContextManager[object]:
        return nullcontext(model)

    def check_interrupt(self) -> None:
        return None
