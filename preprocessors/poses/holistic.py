"""Poses by mediapipe, whose older packages bring their networks: nothing is downloaded, everything may be used.

Its graph finds one person, with hands and face, so people are found one after the other, and whoever was found is
covered. Sources: BlazePose (Bazarevsky et al., 2020), MediaPipe Hands (Zhang et al., 2020), Attention Mesh (Grishchenko
et al., 2020); the places of its points are those of the pictures in their documentation. Hands have OpenPose's order.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# mediapipe declares no types; what it returns is declared here instead.

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from functools import partial
from threading import Lock
from typing import TYPE_CHECKING, Any, NamedTuple

from ..declaration import Output, Parameter
from ..networks.network import Network
from ..perform import Preprocessor
from .openpose import THICK, draw_poses
from .points import Person, Point, Points, Poses, neck

if TYPE_CHECKING:
    import numpy as np

    from ..resize import Image
else:
    from ..lazy import np

GREY = 114  # of what covers people who were found
SEEN = 0.5  # probability from which a point of the body counts as seen
ROOM = 0.1  # of a person's width and height, on each side, that is covered too
SHOULDERS = 11, 12  # left and right, in BlazePose's points
NECK = 1  # in OpenPose's
BODY = (
    0,
    None,
    12,
    14,
    16,
    11,
    13,
    15,
    24,
    26,
    28,
    23,
    25,
    27,
    5,
    2,
    8,
    7,
)  # OpenPose's 18 in BlazePose's 33
FACE = (  # OpenPose's 70 points in those of the mesh: jaw, brows, nose, eyes, lips, pupils, from the picture's left
    127, 234, 132, 58, 172, 136, 149, 148, 152, 377, 378, 365, 397, 288, 361, 454, 356, 70, 63, 105, 66, 107, 336, 296,
    334, 293, 300, 168, 197, 5, 4, 98, 97, 2, 326, 327, 33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380, 61,
    40, 37, 0, 267, 270, 291, 321, 314, 17, 84, 91, 78, 81, 13, 311, 308, 402, 14, 178, 468, 473,
)  # fmt: skip


class Found(NamedTuple):
    """A person, and where the graph supposes all of the body, seen or not: left, top, right, bottom in pixels."""

    person: Person
    place: tuple[int, int, int, int]


class Holistic:
    """mediapipe's graph for single pictures; threads take turns."""

    def __init__(self, graph: Any) -> None:
        self._graph, self._lock = graph, Lock()

    def __call__(self, image: Image) -> Found | None:
        """Return the clearest person of [H, W, 3]; None if neither a face nor both shoulders of anybody are seen."""
        with self._lock:
            found = self._graph.process(np.ascontiguousarray(image))
        if found.pose_landmarks is None:
            return None
        size = image.shape[1], image.shape[0]
        body = body_of(points_of(found.pose_landmarks, size, sure=SEEN))
        mesh = points_of(found.face_landmarks, size)
        if not mesh and body[NECK] is None:
            return None
        person = Person(
            body=body,
            left_hand=points_of(found.left_hand_landmarks, size),
            right_hand=points_of(found.right_hand_landmarks, size),
            face=tuple(mesh[number] for number in FACE) if mesh else (),
        )
        return Found(person, _around([(each.x, each.y) for each in found.pose_landmarks.landmark], size))


def load_holistic() -> Holistic:
    """Return the graph with the networks that lie in the package."""
    module: Any = importlib.import_module("mediapipe.python.solutions.holistic")
    return Holistic(module.Holistic(static_image_mode=True, model_complexity=1, refine_face_landmarks=True))


def find_people(images: Image, find: Holistic, people: int, **_settings: float) -> list[Poses]:
    """Return up to so many people in each picture of [B, H, W, 3], with hands and faces."""
    return [
        Poses(width=image.shape[1], height=image.shape[0], people=tuple(_one_by_one(image.copy(), find, people)))
        for image in images
    ]


def body_of(points: Points) -> Points:
    """Return OpenPose's 18 points of BlazePose's 33."""
    left, right = (points[number] for number in SHOULDERS)
    return tuple(neck(left, right) if number is None else points[number] for number in BODY)


def points_of(landmarks: Any, size: tuple[int, int], *, sure: float = 0.0) -> Points:
    """Return points in pixels of a picture of (width, height), None outside of it or where less sure; () for none.

    The graph also guesses points beyond the edges. Only points of the body say how sure they are.
    """
    if landmarks is None:
        return ()
    return tuple(_point(each, size, sure) for each in landmarks.landmark)


def _point(mark: Any, size: tuple[int, int], sure: float) -> Point | None:
    score = float(mark.visibility) if sure else 1.0
    if not (0 <= mark.x < 1 and 0 <= mark.y < 1 and score >= sure):
        return None
    return Point(mark.x * size[0], mark.y * size[1], score)


def _one_by_one(canvas: Image, find: Holistic, people: int) -> Iterator[Person]:
    """Yield the people of [H, W, 3], which is painted over."""
    for _ in range(people):
        if (found := find(canvas)) is None:
            return
        yield found.person
        left, top, right, bottom = found.place
        canvas[top:bottom, left:right] = GREY


def _around(places: Sequence[tuple[float, float]], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return left, top, right and bottom of places (0 to 1) in a picture of (width, height), with some room."""
    low, high = np.min(places, axis=0), np.max(places, axis=0)
    room = ROOM * (high - low)
    left, top = np.floor(np.clip(low - room, 0, 1) * size).astype(int)
    right, bottom = np.ceil(np.clip(high + room, 0, 1) * size).astype(int)
    return int(left), int(top), int(right), int(bottom)


HOLISTIC = Network(id="holistic", files=(), load=load_holistic, packages=("mediapipe<0.10.30",))

OPENPOSE_MEDIAPIPE = Preprocessor(
    id="openpose_mediapipe",
    title="Pose (MediaPipe)",
    doc="Bodies, hands and faces with no weights to download: they lie in the package mediapipe 0.10.14, free to use. "
    "People are found one after the other, so it suits few and large ones.",
    run=find_people,
    finish=partial(draw_poses, body=True, hands=True, face=True),
    finds_poses=True,
    output=Output.LABELS,
    polarity="limbs and points in colours of their own on black",
    aliases=("mediapipe_pose",),
    control_types=("OpenPose",),
    parameters=(
        THICK,
        Parameter(name="people", label="Most people", default=4, minimum=1, maximum=20, step=1,
                  doc="How many people are looked for; each costs one more run."),
    ),
    networks=(HOLISTIC,),
    batchable=True,
    pad=1,
)  # fmt: skip
