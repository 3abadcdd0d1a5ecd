"""Scenes of one or two coloured shapes, drawn by OpenCV, with a caption; their depth and colours are known exactly.

Nearness is light: a pixel is a hue of full value times V, and V = DARKEST + (1 - DARKEST) * depth. So the depth of any
picture, also of a generated one, is read back from its brightest channel, and the colour from its hue.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ...pipelines.tiny_world import DARKEST

Image = NDArray[np.uint8]

SIZE = 128  # pixels of a side
SUPERSAMPLING = 4
KINDS = ("circle", "square", "triangle", "star")
COLOURS = {  # hue and saturation spread so that no two are confused after compression
    "red": (255, 0, 0),
    "orange": (255, 140, 0),
    "yellow": (255, 255, 0),
    "green": (0, 255, 0),
    "cyan": (0, 255, 255),
    "blue": (40, 60, 255),
    "purple": (170, 0, 255),
    "white": (255, 255, 255),
}
NAMES = tuple(COLOURS)
PALETTE = np.array(list(COLOURS.values()), np.float32) / 255  # [8, 3]
GROUND_DEPTH = (0.0, 0.3)  # at the top and at the bottom
SHAPE_DEPTH = (0.55, 1.0)
DOME = 0.12  # a shape's middle is nearer than its rim by this much
RADIUS = (20, 38)  # pixels
MARGIN = 4


@dataclass(frozen=True, slots=True)
class Shape:
    """One shape; lengths in pixels, rotation in degrees, depth 0 (far) to 1 (near)."""

    kind: str
    colour: str
    centre: tuple[float, float]
    radius: float
    rotation: float
    depth: float


@dataclass(frozen=True, slots=True)
class Scene:
    """A ground and the shapes on it, far ones first."""

    ground: str
    shapes: tuple[Shape, ...]

    @property
    def caption(self) -> str:
        named = " and ".join(f"{_article(shape.colour)} {shape.colour} {shape.kind}" for shape in self.shapes)
        return f"{named} on {self.ground}"


@dataclass(frozen=True, slots=True)
class Picture:
    """A drawn scene: image [128, 128, 3] RGB, depth [128, 128] (near = 255), colours [128, 128] (palette indices)."""

    image: Image
    depth: Image
    colours: Image


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def random_scene(rng: np.random.Generator) -> Scene:
    """Return one or two shapes that do not cover each other much, fully inside, none in the ground's colour."""
    ground, *rest = (str(name) for name in rng.permutation(NAMES))
    shapes: list[Shape] = []
    for _ in range(int(rng.integers(1, 3))):
        shape = _place(rng, rest.pop(), shapes)
        if shape is not None:
            shapes.append(shape)
    return Scene(ground, tuple(sorted(shapes, key=lambda shape: shape.depth)))


def _place(rng: np.random.Generator, colour: str, others: list[Shape]) -> Shape | None:
    """Return a shape where there is room; None where none was found."""
    for _ in range(40):
        radius = rng.uniform(*RADIUS)
        x, y = rng.uniform(radius + MARGIN, SIZE - radius - MARGIN, size=2)
        if all(np.hypot(x - o.centre[0], y - o.centre[1]) > 0.85 * (radius + o.radius) for o in others):
            depth, kind = rng.uniform(*SHAPE_DEPTH), str(rng.choice(KINDS))
            return Shape(kind, colour, (float(x), float(y)), float(radius), float(rng.uniform(0, 360)), float(depth))
    return None


def draw(scene: Scene) -> Picture:
    """Draw a scene four times as large and average; the colour map is sampled, not averaged."""
    side = SIZE * SUPERSAMPLING
    depth = np.repeat(np.linspace(*GROUND_DEPTH, side, dtype=np.float32)[:, None], side, axis=1)
    colours = np.full((side, side), NAMES.index(scene.ground), np.uint8)
    for shape in scene.shapes:
        inside = _mask(shape, side)
        colours[inside] = NAMES.index(shape.colour)
        depth[inside] = _dome(shape, side)[inside]
    value = DARKEST + (1 - DARKEST) * depth
    image = PALETTE[colours] * value[..., None]
    return Picture(
        image=_shrink(image),
        depth=_shrink(depth),
        colours=colours[SUPERSAMPLING // 2 :: SUPERSAMPLING, SUPERSAMPLING // 2 :: SUPERSAMPLING],
    )


def _shrink(picture: NDArray[np.floating[Any]]) -> Image:
    small = cv2.resize(picture, (SIZE, SIZE), interpolation=cv2.INTER_AREA)
    return np.clip(np.rint(small * 255), 0, 255).astype(np.uint8)


def _mask(shape: Shape, side: int) -> NDArray[np.bool_]:
    canvas = np.zeros((side, side), np.uint8)
    centre, radius = np.array(shape.centre) * SUPERSAMPLING, shape.radius * SUPERSAMPLING
    if shape.kind == "circle":
        cv2.circle(canvas, [round(float(v)) for v in centre], round(radius), 1, -1)
    else:
        cv2.fillPoly(canvas, [np.rint(centre + radius * _corners(shape)).astype(np.int32)], 1)
    return canvas.astype(bool)


def _corners(shape: Shape) -> NDArray[np.float64]:
    """Return corners on the unit circle; a star alternates with an inner circle."""
    count = {"square": 4, "triangle": 3, "star": 10}[shape.kind]
    angles = np.radians(shape.rotation) + 2 * np.pi * np.arange(count) / count
    lengths = np.where(np.arange(count) % 2 == 1, 0.45, 1.0) if shape.kind == "star" else np.ones(count)
    return np.stack([np.cos(angles), np.sin(angles)], 1) * lengths[:, None]


def _dome(shape: Shape, side: int) -> NDArray[np.float32]:
    y, x = np.mgrid[:side, :side].astype(np.float32) / SUPERSAMPLING
    distance = np.hypot(x - shape.centre[0], y - shape.centre[1]) / shape.radius
    return np.clip(shape.depth - DOME * np.square(distance), 0, 1).astype(np.float32)


def read_colours(image: Image) -> Image:
    """Return the palette index of each pixel of a picture [..., 3]: the nearest colour at its own brightness."""
    pixels = image.astype(np.float32) / 255
    pure = pixels / np.maximum(pixels.max(axis=-1, keepdims=True), 1 / 255)
    return np.square(pure[..., None, :] - PALETTE).sum(axis=-1).argmin(axis=-1).astype(np.uint8)


def scenes(count: int, seed: int) -> list[Scene]:
    """Return `count` scenes; the k-th does not depend on how many there are."""
    return [random_scene(np.random.default_rng((seed, k))) for k in range(count)]


def write_dataset(folder: Path, count: int, seed: int) -> None:
    """Write an image folder with `metadata.jsonl`: file_name, text, depth_image."""
    for name in ("image", "depth"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    lines: list[str] = []
    for k, scene in enumerate(scenes(count, seed)):
        picture, name = draw(scene), f"{k:06d}.png"
        cv2.imwrite(str(folder / "image" / name), cv2.cvtColor(picture.image, cv2.COLOR_RGB2BGR))
        cv2.imwrite(str(folder / "depth" / name), picture.depth)
        line = {"file_name": f"image/{name}", "text": scene.caption, "depth_image": f"depth/{name}"}
        lines.append(json.dumps(line))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
