"""The libraries that base models are made of, imported at once, in a command that draws and then ends.

Importing them makes half a million objects, none of which is ever garbage. Python's collector looks through all of
them again and again while they grow, and then in each later full round; so it rests until they are there, and leaves
them out of its rounds from then on. docs/performance.md has what that saves.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Generator
from contextlib import contextmanager
from importlib import import_module

USED = (("transformers", "CLIPTextModel"), ("diffusers", "StableDiffusionPipeline"))  # they import what they need


def import_libraries() -> None:
    """Import torch, transformers and diffusers for a command; nothing to do where another call has."""
    if all(library in sys.modules for library, _ in USED):
        return
    with _collector_at_rest():
        for library, name in USED:
            getattr(import_module(library), name)


@contextmanager
def _collector_at_rest() -> Generator[None]:
    """Collect no garbage while this is open, and count what is there behind it as none."""
    if not gc.isenabled():  # somebody else's decision
        yield
        return
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        gc.enable()
