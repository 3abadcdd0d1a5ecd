"""Poses by mediapipe with the networks of its package, on a photograph; and its points in OpenPose's places."""

from __future__ import annotations

import importlib.util
from importlib import metadata
from types import SimpleNamespace

import numpy as np
import pytest
from controlstack.preprocessors import find
from controlstack.preprocessors.networks.network import Network, missing_packages
from controlstack.preprocessors.poses.holistic import BODY, FACE, body_of, points_of
from controlstack.preprocessors.poses.points import Point, Poses
from skimage import data

POSE = find("openpose_mediapipe")
REAL = pytest.mark.skipif(bool(missing_packages(POSE.networks)), reason="needs mediapipe 0.10.14 to 0.10.21")
pytestmark = pytest.mark.filterwarnings("ignore:SymbolDatabase:UserWarning")  # of protobuf, at each picture
RIGHT_EYE, LEFT_EYE, RIGHT_SHOULDER, LEFT_SHOULDER, NOSE, NECK = 14, 15, 2, 5, 0, 1


def poses(image: np.ndarray, **settings: int) -> Poses:
    (found,) = POSE.poses(np.ascontiguousarray(image), **settings)
    return found


def places(points: tuple[Point | None, ...]) -> np.ndarray:
    return np.array([point[:2] for point in points if point is not None])


@REAL
def test_a_portrait_has_its_points_where_they_are_seen() -> None:
    """The astronaut looks at us: her face is in the middle of the upper half, and her right is on our left."""
    (person,) = poses(data.astronaut()).people
    nose, neck = person.body[NOSE], person.body[NECK]
    assert nose is not None and neck is not None
    assert abs(nose.x - 222) < 15
    assert abs(nose.y - 125) < 20
    assert 180 < neck.y < 280
    for right, left in ((RIGHT_EYE, LEFT_EYE), (RIGHT_SHOULDER, LEFT_SHOULDER)):
        one, other = person.body[right], person.body[left]
        assert one is not None and other is not None
        assert one.x < nose.x < other.x


@REAL
def test_the_points_of_a_face_are_openposes() -> None:
    """Jaw, brows, nose, eyes, lips and pupils, each where its number says."""
    (person,) = poses(data.astronaut()).people
    face = places(person.face)
    assert face.shape == (70, 2)
    jaw, right_brow, left_brow, nose = face[:17], face[17:22], face[22:27], face[27:36]
    right_eye, left_eye, lips, inner = face[36:42], face[42:48], face[48:60], face[60:68]
    assert (np.diff(jaw[:, 0]) > -1).all()
    assert jaw[:, 1].argmax() == 8
    assert (np.diff(right_brow[:, 0]) > 0).all()
    assert (np.diff(left_brow[:, 0]) > 0).all()
    assert right_brow[:, 1].max() < right_eye[:, 1].min()
    assert (np.diff(nose[:4, 1]) > 0).all()
    assert (np.diff(nose[4:, 0]) > 0).all()
    for eye, pupil in ((right_eye, face[68]), (left_eye, face[69])):
        assert (eye.min(axis=0) < pupil).all()
        assert (pupil < eye.max(axis=0)).all()
        assert eye[:, 0].argmin() == 0
        assert eye[:, 0].argmax() == 3
        assert eye[1:3, 1].max() < eye[4:, 1].min()
    for outline, middle in ((lips, 6), (inner, 4)):
        assert outline[:, 0].argmin() == 0
        assert outline[:, 0].argmax() == middle
        assert outline[1:middle, 1].mean() < outline[middle + 1 :, 1].mean()
    assert lips[:, 1].min() > nose[:, 1].max() - 3


@REAL
def test_everybody_is_found_once_and_nobody_where_nobody_is() -> None:
    image = data.astronaut()
    both = np.concatenate([image, image[:, ::-1]], axis=1)
    found = poses(both).people
    middles = sorted(float(places(person.face)[:, 0].mean()) for person in found)
    assert len(found) == 2
    assert abs(middles[0] - 222) < 20
    assert abs(middles[1] - (1024 - 222)) < 20
    hint = POSE(both, people=1)
    drawn = [(hint[:, part] > 0).any() for part in (slice(None, 512), slice(512, None))]
    assert drawn.count(True) == 1
    assert poses(data.coffee()).people == ()


def mark(x: float, y: float, visibility: float = 1.0) -> SimpleNamespace:
    return SimpleNamespace(x=x, y=y, visibility=visibility)


def test_points_that_nobody_sees_are_none() -> None:
    marks = SimpleNamespace(landmark=[mark(0.5, 0.25), mark(0.5, 1.2), mark(0.1, 0.1, 0.3), mark(-0.1, 0.5)])
    assert points_of(marks, (200, 100), sure=0.5) == (Point(100, 25, 1.0), None, None, None)
    assert points_of(marks, (200, 100))[2] == Point(20, 10, 1.0)
    assert points_of(None, (200, 100)) == ()


def test_a_body_has_openposes_order() -> None:
    marks = tuple(Point(float(number), 0.0) for number in range(33))
    body = body_of(marks)
    assert [None if point is None else point.x for point in body] == [
        0, 11.5, 12, 14, 16, 11, 13, 15, 24, 26, 28, 23, 25, 27, 5, 2, 8, 7,
    ]  # fmt: skip
    assert body_of((*marks[:11], None, *marks[12:]))[NECK] is None
    assert len(BODY) == 18
    assert len(set(FACE)) == len(FACE) == 70


def test_todays_mediapipe_is_refused_for_what_it_lacks(tmp_path: object) -> None:
    name = "numpy"  # stands for a package that is there in a version that is too new
    network = Network(id="n", files=(), load=str, packages=(f"{name}<1.0",))
    assert missing_packages([network]) == (
        f"it needs {name}<1.0, but {name} {metadata.version(name)} is installed, which its program may rely on"
    )
    assert missing_packages([Network(id="n", files=(), load=str, packages=(f"{name}<99",))]) == ""
    assert importlib.util.find_spec("mediapipe") is None or "mediapipe" in POSE.networks[0].packages[0]
