"""An extension of the WebUI for tests: makes ControlStack know the families of `tests/effects/families.py`.

Their files hold one tensor, whose name says which of them is meant.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import controlstack
from controlstack.core.network.base import Base
from controlstack.models import registry
from controlstack.models.family import Family, shapes_of
from controlstack.models.settings import Settings

PREFIX = "effects."


def load_families() -> Any:
    path = Path(next(iter(controlstack.__path__))) / "tests" / "effects" / "families.py"
    spec = importlib.util.spec_from_file_location("controlstack_test_families", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Effects(Family[Any, Settings]):
    """All of them, as one family of files."""

    id = title = "effects"
    settings = Settings
    families = load_families()

    def detect(self, shapes: Any) -> bool:
        return len(shapes) == 1 and next(iter(shapes)).startswith(PREFIX)

    def create(self, shapes: Any, settings: Settings, kit: Any) -> Any:
        raise NotImplementedError

    def wrap(self, network: Any, name: str, settings: Settings, dtype: Any) -> Any:
        raise NotImplementedError

    def made_for(self, header: Any) -> Base:
        return Base()

    def reads_base(self, names: Any) -> bool:
        return True

    def load(self, state: Any, settings: Any, kit: Any = None, base_state: Any = None, **more: Any) -> Any:
        kind = next(iter(state)).removeprefix(PREFIX)
        found = self.families.families_of(shapes_of(base_state))[kind]
        found.network.to(more["dtype"])
        return found


registry.REGISTRY = (*registry.REGISTRY, Effects())
