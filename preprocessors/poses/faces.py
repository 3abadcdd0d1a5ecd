"""Faces as drawn outlines: mediapipe finds 478 points, and brows, eyes, lips, face and pupils are drawn.

Models were trained on the drawings of CrucibleAI's ControlNetMediaPipeFace. mediapipe up to 0.10.21 brings its networks
with it; later versions have another interface and want a file. The points are the same.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# mediapipe declares no types; what it returns is declared here instead.

from __future__ import annotations

import importlib
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...core.errors import DamagedModelError
from ..declaration import Output, Parameter
from ..networks import weights
from ..networks.network import Network
from ..perform import Preprocessor

if TYPE_CHECKING:
    import cv2
    import numpy as np
    from numpy.typing import NDArray

    from ..resize import Image
else:
    from ..lazy import cv2, np

SMALLEST = 64  # pixels; smaller faces are not drawn (CrucibleAI)
LINE, PUPIL = 2, 2  # width of lines, and half the side of a pupil, in pixels
LINES: tuple[tuple[tuple[int, int, int], tuple[int, ...]], ...] = (  # RGB, and points along a line, in drawing order
    ((10, 200, 10), (
        10, 109, 67, 103, 54, 21, 162, 127, 234, 93, 132, 58, 172, 136, 150, 149, 176, 148, 152, 377, 400, 378, 379,
        365, 397, 288, 361, 323, 454, 356, 389, 251, 284, 332, 297, 338, 10)),
    ((10, 200, 180), (249, 263, 466, 388, 387, 386, 385, 384, 398, 362, 382, 381, 380, 374, 373, 390, 249)),
    ((10, 220, 180), (276, 283, 282, 295, 285)),
    ((10, 220, 180), (300, 293, 334, 296, 336)),
    ((180, 200, 10), (7, 33, 246, 161, 160, 159, 158, 157, 173, 133, 155, 154, 153, 145, 144, 163, 7)),
    ((180, 220, 10), (46, 53, 52, 65, 55)),
    ((180, 220, 10), (70, 63, 105, 66, 107)),
    ((10, 180, 10), (
        0, 37, 39, 40, 185, 61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291, 409, 270, 269, 267, 0)),
    ((10, 180, 10), (
        13, 82, 81, 80, 191, 78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308, 415, 310, 311, 312, 13)),
)  # fmt: skip
PUPILS = ((468, (250, 200, 10)), (473, (10, 200, 250)))  # point, and RGB

Finder = Callable[["Image", int, float], "list[NDArray[np.float64]]"]


def draw_faces(image: Image, find: Finder, faces: int, confidence: float) -> Image:
    """Return the faces of [H, W, 3] on black."""
    canvas = np.zeros(image.shape, np.uint8)
    size = np.array(image.shape[1::-1], np.float64)
    for points in find(image, faces, confidence):
        if np.ptp(points * size, axis=0).min() >= SMALLEST:
            _draw(canvas, points, size)
    return canvas


def load_mesh(path: Path) -> Finder:
    """Return what finds faces: for a picture, how many at most and how sure, points [478, 2] of each, in 0..1.

    A `.task` file is for today's interface of mediapipe; anything else is its own network, for the old one.
    """
    return _Remembered(_today(path) if path.suffix == ".task" else _old)


class _Remembered:
    """A finder is made for certain settings; the last one is kept."""

    def __init__(self, make: Callable[[int, float], Callable[[Image], list[NDArray[np.float64]]]]) -> None:
        self._make = make
        self._settings: tuple[int, float] | None = None
        self._find: Callable[[Image], list[NDArray[np.float64]]] | None = None

    def __call__(self, image: Image, faces: int, confidence: float) -> list[NDArray[np.float64]]:
        if self._find is None or self._settings != (faces, confidence):
            self._find = self._make(faces, confidence)
            self._settings = faces, confidence
        return self._find(np.ascontiguousarray(image))


def _today(path: Path) -> Callable[[int, float], Callable[[Image], list[NDArray[np.float64]]]]:
    package: Any = importlib.import_module("mediapipe")
    vision: Any = importlib.import_module("mediapipe.tasks.python.vision")
    base: Any = importlib.import_module("mediapipe.tasks.python").BaseOptions
    content = path.read_bytes()

    def make(faces: int, confidence: float) -> Callable[[Image], list[NDArray[np.float64]]]:
        options = vision.FaceLandmarkerOptions(
            base_options=base(model_asset_buffer=content), num_faces=faces, min_face_detection_confidence=confidence
        )
        try:
            landmarker = vision.FaceLandmarker.create_from_options(options)
        except (RuntimeError, ValueError) as error:
            first = (str(error).splitlines() or ["no reason given"])[0]
            raise DamagedModelError(f"{path} cannot be used ({first}): delete it and get it again") from error

        def find(image: Image) -> list[NDArray[np.float64]]:
            shown = package.Image(image_format=package.ImageFormat.SRGB, data=image)
            return [_places(face) for face in landmarker.detect(shown).face_landmarks]

        return find

    return make


def _old(faces: int, confidence: float) -> Callable[[Image], list[NDArray[np.float64]]]:
    module: Any = importlib.import_module("mediapipe.python.solutions.face_mesh")
    mesh = module.FaceMesh(
        static_image_mode=True, max_num_faces=faces, refine_landmarks=True, min_detection_confidence=confidence
    )

    def find(image: Image) -> list[NDArray[np.float64]]:
        return [_places(face.landmark) for face in mesh.process(image).multi_face_landmarks or ()]

    return find


def _places(points: Any) -> NDArray[np.float64]:
    return np.array([[point.x, point.y] for point in points], np.float64)


def _draw(canvas: Image, points: NDArray[np.float64], size: NDArray[np.float64]) -> None:
    """Draw the lines of a face; those that leave the picture are left out, as in the drawings that models know."""
    inside: Any = ((points >= 0) & (points <= 1)).all(axis=1)
    places = np.minimum(np.floor(points * size), size - 1).astype(int)
    for colour, line in LINES:
        for first, second in itertools.pairwise(line):
            if inside[first] and inside[second]:
                cv2.line(canvas, _pair(places[first]), _pair(places[second]), colour, LINE)
    for point, colour in PUPILS:
        if (points[point] >= 0).all() and (points[point] < 1).all():
            x, y = _pair(points[point] * size)
            canvas[max(0, y - PUPIL) : y + PUPIL, max(0, x - PUPIL) : x + PUPIL] = colour


def _pair(place: NDArray[Any]) -> tuple[int, int]:
    return int(place[0]), int(place[1])


MESH = Network(id="face_mesh", files=(weights.FACE_MESH,), load=load_mesh, packages=("mediapipe",))

MEDIAPIPE_FACE = Preprocessor(
    id="mediapipe_face",
    title="Face mesh",
    doc="Brows, eyes, lips, pupils and outline of faces of at least 64 pixels.",
    run=draw_faces,
    output=Output.LABELS,
    polarity="lines in colours of their own on black",
    aliases=("face_mesh",),
    control_types=("OpenPose",),
    parameters=(
        Parameter(name="faces", label="Most faces", default=10, minimum=1, maximum=100, step=1,
                  doc="How many faces are drawn at most."),
        Parameter(name="confidence", label="Least confidence", default=0.5, minimum=0.01, maximum=1.0, step=0.01,
                  doc="How sure the network must be that it sees a face."),
    ),
    networks=(MESH,),
    pad=1,
)  # fmt: skip
