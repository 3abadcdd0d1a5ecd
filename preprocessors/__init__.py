"""Photograph -> hint: preprocessors for every host, declared once.

    from controlstack.preprocessors import REGISTRY, find
    hint = find("canny")(image, resolution=512, low=80)      # uint8 RGB in and out, one picture or a batch

Importing this loads neither cv2 nor numpy nor torch; the first picture does. Preprocessors lie in folders by what their
hint shows; `networks` is what those with a network share.
"""

from __future__ import annotations

from .absent import ABSENT
from .declaration import MAX_PIXELS, RESOLUTION, Output, Parameter
from .perform import Preprocessor
from .registry import REGISTRY, encoding, find, of_type, offered

__all__ = [
    "ABSENT",
    "MAX_PIXELS",
    "REGISTRY",
    "RESOLUTION",
    "Output",
    "Parameter",
    "Preprocessor",
    "encoding",
    "find",
    "of_type",
    "offered",
]
