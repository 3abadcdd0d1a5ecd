"""One-click examples: a control of the papers with a picture for it, as far as the shipped tiny models reach."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...pipelines import tiny_world
from ...preprocessors.images import read_image
from ...units.request import AUTO, NONE
from .library import Library

Image = NDArray[np.uint8]
Drawing = Callable[[], Image]

PAPER, INK = 255, 0
PEN = 1  # pixels
STAR = (  # x, y of its one line, as a hand draws it
    (66, 18), (76, 49), (108, 48), (84, 69), (95, 104), (65, 82), (38, 106), (46, 70), (20, 50), (53, 50), (65, 19),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Control:
    """One unit of an example: a picture, and the model that is told it."""

    model: str
    picture: Drawing
    preprocessor: str = AUTO
    more: Mapping[str, Any] | None = None

    def said(self) -> dict[str, Any]:
        """Return what its card says."""
        own = {"image": self.picture(), "model": self.model, "preprocessor": self.preprocessor, "pixel_perfect": True}
        return {**own, **(self.more or {})}


@dataclass(frozen=True, slots=True)
class Example:
    """A button's word, and the units that it makes."""

    title: str
    controls: Sequence[Control]

    def units(self) -> list[dict[str, Any]]:
        """Return what the cards of the example say."""
        return [each.said() for each in self.controls]


def examples(library: Library) -> list[Example]:
    """Return the examples whose models are all offered; none beside base models of a user's own."""
    if not library.tiny:
        return []
    return [each for each in _all() if all(control.model in library.models for control in each.controls)]


def _all() -> list[Example]:
    edges = Control("canny", _scene(1))
    return [
        Example("Canny edges", [edges]),
        Example("Scribble", [Control("canny", scribble, "invert")]),
        Example("Depth", [Control("depth", depth_map, NONE)]),
        Example("Colours", [Control("color", _scene(3))]),
        Example("Edges and colours", [edges, Control("color", _scene(1), more={"weight": 0.8})]),
        Example("Picture as prompt (IP-Adapter)", [Control("canny", _scene(2)), Control("ip-adapter", _scene(3))]),
        Example("Reference", [Control("canny", _scene(2)), Control("reference_only", _scene(1), NONE)]),
    ]


def _scene(number: int) -> Drawing:
    return lambda: read_image(tiny_world.IMAGES / f"scene-{number}.png")


def scribble() -> Image:
    """Return a star as somebody draws it with a pen on paper, uint8 [H, W, 3]."""
    import cv2

    paper = np.full((tiny_world.SIDE, tiny_world.SIDE, 3), PAPER, np.uint8)
    line = [np.array(STAR, np.int32)]
    return np.asarray(cv2.polylines(paper, line, isClosed=False, color=(INK,) * 3, thickness=PEN), np.uint8)


def depth_map() -> Image:
    """Return the depth of a scene, near is white, uint8 [H, W, 3]."""
    levels = np.rint(tiny_world.read_depth(_scene(1)()) * 255).astype(np.uint8)
    return np.repeat(levels[..., None], 3, axis=-1)
