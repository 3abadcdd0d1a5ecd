"""Network classes of the package controlnet-aux, without the rest of it.

Importing that package runs all its detectors: it fails beside a recent mediapipe, takes seconds, and replaces entries
of timm's registry. Here a single file of it is imported, below a package of ours that stands for it and is empty.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from threading import Lock
from types import ModuleType
from typing import Any

from ...core.errors import MissingDependencyError
from .network import get_packages

PACKAGE = "controlnet_aux"
ALIAS = f"{__package__}._controlnet_aux"
_LOCK = Lock()
VERSION = "0.0.10"  # of which the files are imported


def peer(module: str) -> Any:
    """Return a module of the package by its path inside, such as "pidi.model"; its parents are not executed."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise MissingDependencyError(f"this needs the package controlnet-aux: {get_packages()}")
    parents = module.split(".")[:-1]
    for depth in range(len(parents) + 1):
        _stand_in(parents[:depth], list(spec.submodule_search_locations))
    try:
        return importlib.import_module(f"{ALIAS}.{module}")
    except ImportError as error:
        older = (error.name or ALIAS).startswith(ALIAS)
        advice = f"it is another version than {VERSION}" if older else get_packages()
        raise MissingDependencyError(f"controlnet-aux cannot be used ({error}): {advice}") from error


@contextmanager
def unregistered(registry: str) -> Generator[None, None, None]:
    """Keep files that are imported while the context is open from putting anything into a registry of models.

    `registry` is the module of which they take `register_model`. controlnet-aux replaces entries of timm's registry by
    its own classes, which other programs then get.
    """
    stub = ModuleType(registry)
    stub.__dict__["register_model"] = lambda builder: builder  # pyright: ignore[reportUnknownLambdaType]
    with _LOCK:
        before = sys.modules.get(registry)
        sys.modules[registry] = stub
        try:
            yield
        finally:
            del sys.modules[registry]
            if before is not None:
                sys.modules[registry] = before


def _stand_in(parts: Sequence[str], locations: list[str]) -> None:
    """Return an empty package whose submodules lie where those of the real one do."""
    name = ".".join((ALIAS, *parts))
    if name in sys.modules:
        return
    module = ModuleType(name)
    module.__path__ = ["/".join((location, *parts)) for location in locations]
    sys.modules[name] = module
