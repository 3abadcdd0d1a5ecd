"""Poses as values, and as the JSON that pose editors and ComfyUI's `POSE_KEYPOINT` exchange.

A point is in pixels of a canvas; a point that nobody saw is None. JSON follows OpenPose: flat lists x, y, confidence,
with 0, 0, 0 for what is missing. Animals are lists of such triples, as comfyui_controlnet_aux writes them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, cast

from ...core.errors import HintError
from ..declaration import MAX_PIXELS

BODY, HAND, FACE, ANIMAL = 18, 21, 70, 17  # points; a face may have fewer, such as 68 without the pupils
BODY_25 = (0, 1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18)  # OpenPose's 25 points -> our 18
COCO = 17  # points of a body
OF_COCO = (0, None, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3)  # OpenPose's in COCO's; None is the neck
LEFT_SHOULDER, RIGHT_SHOULDER = 5, 6  # of COCO's points
LARGEST_SIDE = 16384  # pixels of a canvas that a file may ask for, and of all of it no more than `MAX_PIXELS`
SHOWN = 40  # characters of a value that a message repeats
PARTS: dict[str, tuple[str, Sequence[int]]] = {  # key of OpenPose's JSON -> ours, and how many points it may have
    "pose_keypoints_2d": ("body", (BODY, 25, COCO)),
    "hand_left_keypoints_2d": ("left_hand", (HAND,)),
    "hand_right_keypoints_2d": ("right_hand", (HAND,)),
    "face_keypoints_2d": ("face", range(1, FACE + 1)),  # all are dots, so one that editors left out harms nothing
}


class Point(NamedTuple):
    """Where something is, in pixels, and how sure that is, 0 to 1."""

    x: float
    y: float
    score: float = 1.0


Points = tuple["Point | None", ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """One person: 18 points of the body in OpenPose's order, and 21 of each hand and up to 70 of the face, or none."""

    body: Points = (None,) * BODY
    left_hand: Points = ()
    right_hand: Points = ()
    face: Points = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Poses:
    """Everybody on one canvas of `width` x `height` pixels; animals have the 17 points of AP-10K."""

    width: int
    height: int
    people: tuple[Person, ...] = ()
    animals: tuple[Points, ...] = ()

    def __post_init__(self) -> None:
        """Raise HintError for a canvas that would be a picture over `MAX_PIXELS`."""
        if self.width * self.height > MAX_PIXELS:
            raise HintError(
                f"the canvas of a pose is {self.width}x{self.height}, more than {MAX_PIXELS // 10**6} megapixels: "
                "choose a smaller one, or a smaller resolution"
            )

    def scaled(self, width: int, height: int) -> Poses:
        """Return the same poses on a canvas of another size."""
        across, down = width / self.width, height / self.height

        def scale(point: Point) -> Point:
            return Point(point.x * across, point.y * down, point.score)

        return replace(self._changed(scale), width=width, height=height)

    def sure(self, least: float) -> Poses:
        """Return the poses without the points that are less sure."""
        return self._changed(lambda point: point if point.score >= least else None)

    def _changed(self, change: Callable[[Point], Point | None]) -> Poses:
        def of(points: Points) -> Points:
            return tuple(point and change(point) for point in points)

        people = tuple(
            Person(
                body=of(each.body),
                left_hand=of(each.left_hand),
                right_hand=of(each.right_hand),
                face=of(each.face),
            )
            for each in self.people
        )
        return replace(self, people=people, animals=tuple(of(each) for each in self.animals))


def neck(left: Point | None, right: Point | None) -> Point | None:
    """Return OpenPose's neck, which is between the shoulders, if both are seen."""
    if left is None or right is None:
        return None
    return Point((left.x + right.x) / 2, (left.y + right.y) / 2, min(left.score, right.score))


def body_of(points: Points) -> Points:
    """Return OpenPose's 18 points from COCO's 17, with which COCO's 133 and Halpe's 26 begin too."""
    middle = neck(points[LEFT_SHOULDER], points[RIGHT_SHOULDER])
    return tuple(middle if number is None else points[number] for number in OF_COCO)


def to_json(poses: Poses) -> dict[str, Any]:
    """Return one frame of a `POSE_KEYPOINT`: plain lists and numbers."""
    frame: dict[str, Any] = {
        "people": [{key: _flat(getattr(person, part)) for key, (part, _) in PARTS.items()} for person in poses.people],
        "canvas_width": poses.width,
        "canvas_height": poses.height,
    }
    if poses.animals:
        frame["version"] = "ap10k"
        frame["animals"] = [[list(point or (0.0, 0.0, 0.0)) for point in animal] for animal in poses.animals]
    return frame


def from_json(frame: object) -> Poses:
    """Return the poses of one frame; HintError says what is wrong with it.

    People may have their points in OpenPose's order (18 or 25) or COCO's (17), as flat numbers or as triples. Read too:
    `width`, `height` and `keypoints`, a list of 18 places [x, y] for each person, as fkunn1326's openpose-editor saves.

    Coordinates may be pixels or fractions of the canvas; which, is decided for each list by itself, since editors mix
    them: fractions if nothing in it lies beyond 1.
    """
    table = _table(frame, "a pose")
    if "keypoints" in table:
        return _from_places(table)
    size = _side(table, "canvas_width"), _side(table, "canvas_height")
    people = tuple(_person(each, size) for each in _list(table.get("people") or [], "people"))
    animals = tuple(_animal(each, size) for each in _list(table.get("animals") or [], "animals"))
    return Poses(width=size[0], height=size[1], people=people, animals=animals)


def _from_places(table: Mapping[str, object]) -> Poses:
    """Return the poses of an editor's file that holds places alone; null is a point that is not there."""
    size = _side(table, "width"), _side(table, "height")
    people: list[Person] = []
    for each in _list(table.get("keypoints"), "keypoints"):
        places = _list(each, "keypoints")
        if len(places) != BODY:
            raise HintError(f"keypoints has {len(places)} points, expected {BODY}, in OpenPose's order")
        triples = [(0.0, 0.0, 0.0) if place is None else (*_list(place, "keypoints"), 1.0) for place in places]
        people.append(Person(body=_points([number for triple in triples for number in triple], "keypoints", size)))
    return Poses(width=size[0], height=size[1], people=tuple(people))


def _person(person: object, size: tuple[int, int]) -> Person:
    table = _table(person, "a person")
    parts: dict[str, Points] = {}
    for key, (part, counts) in PARTS.items():
        rows = _list(table.get(key) or [], key)
        if not rows:
            continue
        numbers = [number for row in rows for number in _list(row, key)] if _nested(rows) else rows
        points = _points(numbers, key, size)
        if len(points) not in counts:
            raise HintError(f"{key} has {len(points)} points, expected {_either(counts)}")
        parts[part] = _body(points) if part == "body" else points
    return Person(**parts)


def _body(points: Points) -> Points:
    """Return the 18 points of a body from those of its layout, which their number tells."""
    if len(points) == COCO:
        return body_of(points)
    return tuple(points[index] for index in BODY_25) if len(points) > BODY else points


def _animal(animal: object, size: tuple[int, int]) -> Points:
    """Return the points of an animal: triples, flat numbers, or a table with one list."""
    if isinstance(animal, Mapping):
        animal = cast("Mapping[str, object]", animal).get("pose_keypoints_2d")
    rows = _list(animal, "animals")
    numbers = [number for row in rows for number in _list(row, "animals")] if _nested(rows) else rows
    points = _points(numbers, "animals", size)
    if len(points) != ANIMAL:
        raise HintError(f"an animal has {len(points)} points, expected {ANIMAL}")
    return points


def _nested(rows: Sequence[object]) -> bool:
    return bool(rows) and isinstance(rows[0], Sequence)


def _points(numbers: Sequence[object], key: str, size: tuple[int, int]) -> Points:
    if len(numbers) % 3:
        raise HintError(f"{key} has {len(numbers)} numbers, expected x, y and confidence for each point")
    values = [_number(number, key) for number in numbers]
    triples = list(zip(values[::3], values[1::3], values[2::3], strict=True))
    seen = [(x, y) for x, y, score in triples if score > 0]
    fractions = bool(seen) and all(abs(x) <= 1 and abs(y) <= 1 for x, y in seen)
    across, down = size if fractions else (1, 1)
    return tuple(Point(x * across, y * down, score) if score > 0 else None for x, y, score in triples)


def _flat(points: Points) -> list[float]:
    return [float(number) for point in points for number in (point or (0.0, 0.0, 0.0))]


def _number(number: object, key: str) -> float:
    if isinstance(number, (int, float)) and not isinstance(number, bool) and abs(number) <= 10**6:  # no NaN either
        return float(number)
    raise HintError(f"{key} holds {_shown(number)}, expected a number")


def _side(table: Mapping[str, object], key: str) -> int:
    value = table.get(key)
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 1 <= value <= LARGEST_SIDE:
        return int(value)
    if value is None:
        raise HintError(
            f"there is no {key}, so the size of the picture is not known: write the picture's size into the file as "
            '"canvas_width" and "canvas_height"'
        )
    raise HintError(f"{key} is {_shown(value)}, expected 1 to {LARGEST_SIDE} pixels")


def _either(counts: Sequence[int]) -> str:
    """Return numbers as `17, 18 or 25`, a range as `1 to 70`."""
    if isinstance(counts, range):
        return f"{counts[0]} to {counts[-1]}"
    *others, last = map(str, sorted(counts))
    return f"{', '.join(others)} or {last}" if others else last


def _shown(value: object) -> str:
    """Return what a file holds as a message may repeat it: printable, and not too long."""
    text = ascii(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def _table(value: object, what: str) -> Mapping[str, object]:
    if isinstance(value, Mapping):
        return cast("Mapping[str, object]", value)
    raise HintError(f"{what} is {type(value).__name__}, expected an object with names and values")


def _list(value: object, key: str) -> Sequence[object]:
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        return cast("Sequence[object]", value)
    raise HintError(f"{key} is {type(value).__name__}, expected a list")
