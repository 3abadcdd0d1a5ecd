"""Programs of benchmarks/ as modules."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def load() -> Iterator[Callable[[str], ModuleType]]:
    """Load a program by its name; it is known to the import system, where dataclasses look it up, until the end."""
    loaded = []

    def load_program(name: str) -> ModuleType:
        if "." in name:  # a part of several programs
            with pytest.MonkeyPatch.context() as path:
                path.syspath_prepend(FOLDER)
                return importlib.import_module(name)
        spec = importlib.util.spec_from_file_location(f"benchmark_{name}", FOLDER / f"{name}.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        loaded.append(spec.name)
        with pytest.MonkeyPatch.context() as path:
            path.syspath_prepend(FOLDER)  # where a program finds its helpers
            spec.loader.exec_module(module)
        return module

    yield load_program
    for name in loaded:
        del sys.modules[name]
