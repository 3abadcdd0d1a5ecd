"""Poses: JSON in and out, and drawings with exactly the shapes and colours that models know."""

from __future__ import annotations

import colorsys
import importlib
import importlib.util
import json
import math
import sys
import types
from typing import Any

import cv2
import numpy as np
import pytest
from controlstack.core.errors import HintError
from controlstack.preprocessors.poses.drawing import draw, stick_scale
from controlstack.preprocessors.poses.points import (
    ANIMAL,
    BODY,
    FACE,
    HAND,
    Person,
    Point,
    Points,
    Poses,
    from_json,
    to_json,
)


def points(count: int, seed: int, missing: int | None = None, width: int = 300, height: int = 200) -> Points:
    random = np.random.default_rng(seed)
    placed = [Point(float(x), float(y)) for x, y in random.uniform((2, 2), (width - 2, height - 2), (count, 2))]
    return tuple(None if index == missing else point for index, point in enumerate(placed))


def crowd() -> Poses:
    people = tuple(
        Person(
            body=points(BODY, seed, seed), left_hand=points(HAND, seed + 9, 3), right_hand=points(HAND, seed + 5),
            face=points(FACE, seed + 7, 60),
        )
        for seed in range(3)
    )  # fmt: skip
    return Poses(width=300, height=200, people=people, animals=(points(ANIMAL, 20, 5), points(ANIMAL, 21)))


def test_json_keeps_everything() -> None:
    text = json.dumps(to_json(crowd()))
    back = from_json(json.loads(text))
    assert back == crowd()
    assert json.loads(text)["people"][0]["pose_keypoints_2d"][:3] == [0, 0, 0]
    assert set(json.loads(text)) == {"people", "animals", "version", "canvas_width", "canvas_height"}


def test_an_empty_canvas_is_an_empty_pose() -> None:
    empty = Poses(width=30, height=20)
    assert from_json(to_json(empty)) == empty
    assert draw(empty).shape == (20, 30, 3)
    assert draw(empty).max() == 0


def test_fractions_and_pixels_are_told_apart_in_each_list() -> None:
    frame = to_json(crowd())
    hand = frame["people"][0]["hand_right_keypoints_2d"]
    frame["people"][0]["hand_right_keypoints_2d"] = [
        number / (300, 200, 1)[index % 3] for index, number in enumerate(hand)
    ]
    back = from_json(frame)
    for ours, theirs in zip(back.people[0].right_hand, crowd().people[0].right_hand, strict=True):
        assert ours == pytest.approx(theirs)
    assert back.people[0].body == crowd().people[0].body


def test_the_25_points_of_openpose_become_18() -> None:
    numbers = [number for index in range(25) for number in (index + 10, 50, 1)]
    frame = {"people": [{"pose_keypoints_2d": numbers}], "canvas_width": 100, "canvas_height": 100}
    body = from_json(frame).people[0].body
    assert [point.x - 10 for point in body if point] == [0, 1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18]


def test_the_17_points_of_coco_become_18_with_a_neck() -> None:
    numbers = [number for index in range(17) for number in (10 + index, 50 + index, 1)]
    frame = {"people": [{"pose_keypoints_2d": numbers}], "canvas_width": 100, "canvas_height": 100}
    body = from_json(frame).people[0].body
    order = [0, 5.5, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3]  # 5.5: between the shoulders
    assert [(point.x - 10, point.y - 50) for point in body if point] == [(each, each) for each in order]


def test_places_of_an_editor_are_points_that_are_sure() -> None:
    places: list[Any] = [[10 + index, 20] for index in range(18)]
    places[3] = None
    pose = from_json({"width": 96, "height": 64, "keypoints": [places]})
    assert (pose.width, pose.height) == (96, 64)
    assert pose.people[0].body == tuple(None if index == 3 else Point(10 + index, 20) for index in range(18))


def test_points_of_people_may_be_triples() -> None:
    flat = to_json(crowd())["people"][0]["pose_keypoints_2d"]
    triples = [flat[k : k + 3] for k in range(0, len(flat), 3)]
    frame = {"people": [{"pose_keypoints_2d": triples}], "canvas_width": 300, "canvas_height": 200}
    assert from_json(frame).people[0].body == crowd().people[0].body


@pytest.mark.parametrize("count", [56, 68, 69])
def test_a_face_may_lack_points(count: int) -> None:
    """Editors leave some out, and each point is a dot of its own."""
    frame = {"people": [{"face_keypoints_2d": [30, 20, 1] * count}], "canvas_width": 60, "canvas_height": 40}
    pose = from_json(frame)
    assert pose.people[0].face == (Point(30, 20),) * count
    assert from_json(to_json(pose)) == pose
    assert draw(pose)[20, 30].tolist() == [255, 255, 255]


def test_null_and_missing_parts_are_absent() -> None:
    frame = {"people": [{"pose_keypoints_2d": None}], "canvas_width": 10, "canvas_height": 10, "animals": None}
    assert from_json(frame).people == (Person(),)


@pytest.mark.parametrize("shape", ["triples", "flat", "table"])
def test_animals_come_in_three_shapes(shape: str) -> None:
    triples = to_json(crowd())["animals"][0]
    flat = [number for triple in triples for number in triple]
    given = {"triples": triples, "flat": flat, "table": {"pose_keypoints_2d": flat}}[shape]
    frame = {"animals": [given], "canvas_width": 300, "canvas_height": 200}
    assert from_json(frame).animals == crowd().animals[:1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"canvas_width": 0}, "canvas_width is 0, expected 1 to 16384 pixels"),
        ({"canvas_height": "tall"}, "canvas_height is 'tall'"),
        ({"canvas_height": "\x1b[2J" * 99}, "canvas_height is '\\x1b[2J"),
        ({"canvas_height": True}, "canvas_height is True"),
        ({"canvas_width": 16384, "canvas_height": 16384}, "is 16384x16384, more than 64 megapixels"),
        ({"canvas_width": None}, "there is no canvas_width"),
        ({"keypoints": [[[1, 2]]], "width": 9, "height": 9}, "keypoints has 1 points, expected 18"),
        ({"people": {}}, None),
        ({"people": "all"}, "people is str, expected a list"),
        ({"people": [[1]]}, "a person is list"),
        ({"people": [{"pose_keypoints_2d": [1, 2]}]}, "pose_keypoints_2d has 2 numbers"),
        ({"people": [{"pose_keypoints_2d": [1, 2, 3]}]}, "pose_keypoints_2d has 1 points, expected 17, 18 or 25"),
        ({"people": [{"face_keypoints_2d": [1, 2, 1] * 71}]}, "face_keypoints_2d has 71 points, expected 1 to 70"),
        ({"people": [{"face_keypoints_2d": [1, 2, "c"]}]}, "face_keypoints_2d holds 'c'"),
        ({"people": [{"face_keypoints_2d": [1, 2, float("nan")]}]}, "face_keypoints_2d holds nan"),
        ({"animals": [[[1, 2, 3]]]}, "an animal has 1 points, expected 17"),
    ],
)
def test_bad_json_is_named(change: dict[str, Any], message: str | None) -> None:
    frame = {"people": [], "canvas_width": 10, "canvas_height": 10, **change}
    if message is None:
        assert from_json(frame).people == ()
        return
    with pytest.raises(HintError) as caught:
        from_json(frame)
    assert message in str(caught.value)


def test_what_is_no_pose_is_refused() -> None:
    with pytest.raises(HintError, match="a pose is list"):
        from_json([])


def test_a_pose_is_drawn_at_the_size_that_is_asked_for() -> None:
    """Limbs keep their width, where peers draw once and shrink the drawing."""
    small, large = crowd(), crowd().scaled(900, 600)
    assert draw(large).shape == (600, 900, 3)
    assert large.scaled(300, 200).people[1].body[0] == pytest.approx(small.people[1].body[0])
    joint = Poses(width=100, height=100, people=(Person(body=(Point(50, 50), *(None,) * 17)),))
    assert (draw(joint).max(2) > 0).sum() == (draw(joint.scaled(1000, 1000)).max(2) > 0).sum()


def line(limb: tuple[int, int]) -> np.ndarray:
    """One limb alone, from (20, 30) to (80, 30)."""
    body: list[Point | None] = [None] * BODY
    body[limb[0]], body[limb[1]] = Point(20, 30), Point(80, 30)
    return draw(Poses(width=100, height=60, people=(Person(body=tuple(body)),)))


@pytest.mark.parametrize(
    ("limb", "colour"),
    [((1, 2), (153, 0, 0)), ((1, 5), (153, 51, 0)), ((1, 0), (0, 0, 153)), ((15, 17), (153, 0, 102))],
)
def test_limbs_have_the_colours_of_openpose(limb: tuple[int, int], colour: tuple[int, int, int]) -> None:
    """Six tenths of the rainbow, an ellipse nine pixels high, with full colours at both ends."""
    canvas = line(limb)
    assert tuple(canvas[30, 50]) == colour
    assert (canvas[:, 50].max(axis=1) > 0).sum() == 9
    assert canvas[30, 20].max() == canvas[30, 80].max() == 255


def test_hands_faces_and_animals() -> None:
    hand = tuple(Point(10 + 4 * (index % 7), 10 + 8 * (index // 7)) for index in range(HAND))
    canvas = draw(Poses(width=60, height=60, people=(Person(left_hand=hand),)))
    assert tuple(canvas[10, 10]) == (0, 0, 255)
    face = (Point(30, 30), *(None,) * 69)
    canvas = draw(Poses(width=60, height=60, people=(Person(face=face),)))
    assert (canvas.max(2) == 255).sum() == (cv2.circle(np.zeros((60, 60), np.uint8), (30, 30), 3, 255, -1) > 0).sum()
    animal = (Point(10, 30), Point(50, 30), *(None,) * 15)
    canvas = draw(Poses(width=60, height=60, animals=(animal,)))
    assert tuple(canvas[30, 30]) == (255, 255, 255)
    assert (canvas[:, 30].max(axis=1) > 0).sum() in (5, 7)  # versions of cv2 differ about a width of five


def test_parts_can_be_left_out() -> None:
    everything = draw(crowd())
    for part in ("body", "hands", "face"):
        assert not np.array_equal(draw(crowd(), **{part: False}), everything)
    nothing = draw(Poses(width=300, height=200, people=crowd().people), body=False, hands=False, face=False)
    assert nothing.max() == 0


@pytest.mark.parametrize(("side", "scale"), [(499, 1), (500, 2), (1000, 3), (4096, 6), (9000, 7)])
def test_thick_limbs_follow_the_canvas(side: int, scale: int) -> None:
    assert stick_scale(side, 10) == scale
    body = [None] * BODY
    body[1], body[2] = Point(0.2 * side, 50), Point(0.8 * side, 50)
    canvas = draw(Poses(width=side, height=100, people=(Person(body=tuple(body)),)), thick=True)
    assert (canvas[:, side // 2].max(axis=1) > 0).sum() == 8 * scale + 1


@pytest.fixture
def theirs(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The drawing functions of controlnet-aux, without the rest of that package and without matplotlib."""
    found = importlib.util.find_spec("controlnet_aux")
    if found is None:
        pytest.skip("needs controlnet-aux, to compare drawings with")
    package = types.ModuleType("peer_of_pose_tests")
    package.__path__ = [f"{found.submodule_search_locations[0]}/open_pose"]
    monkeypatch.setitem(sys.modules, "peer_of_pose_tests", package)
    body = types.ModuleType("peer_of_pose_tests.body")
    body.BodyResult, body.Keypoint = object, object
    monkeypatch.setitem(sys.modules, "peer_of_pose_tests.body", body)
    colours = types.SimpleNamespace(hsv_to_rgb=lambda hsv: np.array(colorsys.hsv_to_rgb(*hsv)))
    monkeypatch.setitem(sys.modules, "matplotlib", types.SimpleNamespace(colors=colours))
    return importlib.import_module("peer_of_pose_tests.util")


def test_drawings_equal_those_of_controlnet_aux(theirs: Any) -> None:
    poses = crowd()

    def fraction(part: Points) -> list[Any]:
        return [point and Point(point.x / 300, point.y / 200) for point in part]

    canvas = np.zeros((200, 300, 3), np.uint8)
    for person in poses.people:
        theirs.draw_bodypose(canvas, fraction(person.body))
        theirs.draw_handpose(canvas, [point or Point(-1, -1) for point in fraction(person.left_hand)])
        theirs.draw_handpose(canvas, fraction(person.right_hand))
        theirs.draw_facepose(canvas, [point for point in fraction(person.face) if point])
    ours = draw(Poses(width=300, height=200, people=poses.people))
    assert math.isclose(float((canvas != ours).any(axis=2).mean()), 0, abs_tol=2e-3)  # x / 300 * 300 may round down


def test_points_that_are_not_sure_can_be_left_out() -> None:
    pose = from_json(
        {
            "people": [{"pose_keypoints_2d": [5, 5, 0.2, 6, 6, 0.3] + [7, 7, 1] * 16}],
            "canvas_width": 99,
            "canvas_height": 99,
        }
    )
    kept = pose.sure(0.3).people[0].body
    assert kept[0] is None and kept[1:] == pose.people[0].body[1:]
    assert pose.sure(0) == pose
