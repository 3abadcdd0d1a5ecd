"""ControlStack: stacked control units for Stable Diffusion, with one meaning on every host.

The repository root is the package root, so that a host can load this folder whatever its name. Nothing of ours, and
nothing of a host, is imported here: each host reaches its own edge through its own entry point, and the public names
of docs/python.md are imported when somebody asks for one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .core.errors import (
        ControlError,
        DamagedModelError,
        FileError,
        HintError,
        HostError,
        IncompatibleModelError,
        MissingDependencyError,
        ModelError,
        PreprocessorError,
        ScheduleError,
        UnitError,
        UnsupportedModelError,
    )
    from .core.schedule import Easing, Keyframe, RangeBasis, Schedule, progress_at
    from .core.stack import ControlStack
    from .core.step import Step
    from .core.unit import ControlMode, ControlUnit
    from .standalone.python import (
        Drawing,
        attach,
        generate,
        inspect,
        load_base,
        load_control_model,
        preprocess,
        unit,
    )

__version__ = "0.1.0"

__all__ = [
    "ControlError",
    "ControlMode",
    "ControlStack",
    "ControlUnit",
    "DamagedModelError",
    "Drawing",
    "Easing",
    "FileError",
    "HintError",
    "HostError",
    "IncompatibleModelError",
    "Keyframe",
    "MissingDependencyError",
    "ModelError",
    "PreprocessorError",
    "RangeBasis",
    "Schedule",
    "ScheduleError",
    "Step",
    "UnitError",
    "UnsupportedModelError",
    "attach",
    "generate",
    "inspect",
    "load_base",
    "load_control_model",
    "preprocess",
    "progress_at",
    "unit",
]

# The room of each public name; whatever is not here is a script's.
_ROOMS = {
    "ControlMode": "core.unit",
    "ControlStack": "core.stack",
    "ControlUnit": "core.unit",
    "Easing": "core.schedule",
    "Keyframe": "core.schedule",
    "RangeBasis": "core.schedule",
    "Schedule": "core.schedule",
    "Step": "core.step",
    "progress_at": "core.schedule",
}

WEB_DIRECTORY = "./web"


def __getattr__(name: str) -> object:
    """Import a public name when it is asked for."""
    from importlib import import_module

    if name not in __all__:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    room = _ROOMS.get(name, "core.errors" if name.endswith("Error") else "standalone.python")
    return getattr(import_module(f".{room}", __name__), name)


def __dir__() -> list[str]:
    """Return the public names, for completion in notebooks."""
    return sorted((*globals(), *__all__))


async def comfy_entrypoint():
    """ComfyUI's way in."""
    from .nodes.extension import ControlStackExtension

    return ControlStackExtension()
