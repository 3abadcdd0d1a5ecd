"""cv2, numpy and Pillow, loaded at their first use: a host asks for the registry long before a picture comes.

`from .lazy import cv2, np` in the `else` of `if TYPE_CHECKING`, so that type checkers see the real modules.
"""

from __future__ import annotations

import importlib

from ..core.errors import MissingDependencyError


class LazyModule:
    """Stands for a module, imports it when an attribute is asked for, and remembers that attribute."""

    def __init__(self, name: str, package: str) -> None:
        self._name = name
        self._package = package

    def __getattr__(self, attribute: str) -> object:
        if attribute.startswith("__"):  # introspection asks for such names, and must not import anything
            raise AttributeError(attribute)
        value = getattr(self._load(), attribute)
        vars(self)[attribute] = value
        return value

    def _load(self) -> object:
        try:
            return importlib.import_module(self._name)
        except ImportError as error:
            raise MissingDependencyError(
                f"this needs {self._name}, which cannot be imported ({error}): pip install {self._package}"
            ) from error


cv2 = LazyModule("cv2", "opencv-python-headless")
np = LazyModule("numpy", "numpy")
PillowImage = LazyModule("PIL.Image", "pillow")
PillowOps = LazyModule("PIL.ImageOps", "pillow")
PngImagePlugin = LazyModule("PIL.PngImagePlugin", "pillow")
ExifTags = LazyModule("PIL.ExifTags", "pillow")
