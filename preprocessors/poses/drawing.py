"""Poses drawn as models were trained with them: OpenPose's colours, on black, at the hint's own size.

Drawing at another size and scaling would thin the limbs and blend their colours, which are labels. Sources: `util.py`
of ControlNet's openpose annotator (people), AnimalPose of sd-webui-controlnet (animals, AP-10K).
"""

# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
# numpy declares some of its methods incompletely; what they return is declared here instead.

from __future__ import annotations

import colorsys
import math
from typing import TYPE_CHECKING

from .points import Person, Point, Points, Poses

if TYPE_CHECKING:
    import cv2
    import numpy as np

    from ..resize import Image
else:
    from ..lazy import cv2, np

LIMBS = (  # pairs of points, in drawing order; later ones lie on top
    (1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10), (1, 11), (11, 12), (12, 13), (1, 0),
    (0, 14), (14, 16), (0, 15), (15, 17),
)  # fmt: skip
RAINBOW = (  # of limbs and of points
    (255, 0, 0), (255, 85, 0), (255, 170, 0), (255, 255, 0), (170, 255, 0), (85, 255, 0), (0, 255, 0), (0, 255, 85),
    (0, 255, 170), (0, 255, 255), (0, 170, 255), (0, 85, 255), (0, 0, 255), (85, 0, 255), (170, 0, 255), (255, 0, 255),
    (255, 0, 170), (255, 0, 85),
)  # fmt: skip
FINGERS = tuple((0 if joint % 4 == 0 else joint, joint + 1) for joint in range(20))  # from the wrist, four a finger
ANIMAL_LIMBS = (
    (0, 1), (1, 2), (0, 2), (2, 3), (3, 8), (8, 9), (9, 10), (3, 5), (5, 6), (6, 7), (3, 4), (4, 14), (14, 15),
    (15, 16), (4, 11), (11, 12), (12, 13),
)  # fmt: skip
ANIMAL_COLOURS = (
    (255, 255, 255), (100, 255, 100), (150, 255, 255), (100, 50, 255), (50, 150, 200), (0, 255, 255), (0, 150, 0),
    (0, 0, 255), (0, 0, 150), (255, 50, 255), (255, 0, 255), (255, 0, 0), (150, 0, 0), (255, 255, 100), (0, 150, 0),
    (255, 255, 0), (150, 150, 150),
)  # fmt: skip
LIMB_WIDTH, LIMB_SHADE = 4, 0.6  # half the width in pixels; limbs are darker than points
JOINT, FACE_DOT = 4, 3  # radii in pixels
HAND_LINE, ANIMAL_LINE = 2, 5  # widths in pixels
BLUE, WHITE = (0, 0, 255), (255, 255, 255)
EDGE = 0.01  # pixels; hands and faces do not reach the first row and column (the peers' mark for "not seen")


def draw(poses: Poses, *, body: bool = True, hands: bool = True, face: bool = True, thick: bool = False) -> Image:
    """Return the canvas as uint8 [height, width, 3]. thick: limbs grow with it, as xinsir's SDXL models want."""
    canvas = np.zeros((poses.height, poses.width, 3), np.uint8)
    width = LIMB_WIDTH * (stick_scale(poses.width, poses.height) if thick else 1)
    for person in poses.people:
        _draw_person(canvas, person, width if body else 0, hands=hands, face=face)
    for animal in poses.animals:
        _draw_animal(canvas, animal)
    return canvas


def stick_scale(width: int, height: int) -> int:
    """Return how many times thicker limbs are for xinsir's SDXL models. Source: comfyui_controlnet_aux."""
    longest = max(width, height)
    return 1 if longest < 500 else min(2 + longest // 1000, 7)


def _draw_person(canvas: Image, person: Person, width: int, *, hands: bool, face: bool) -> None:
    if width:
        _draw_body(canvas, person.body, width)
    if hands:
        _draw_hand(canvas, person.left_hand)
        _draw_hand(canvas, person.right_hand)
    for point in person.face if face else ():
        if point is not None and _inside(point):
            cv2.circle(canvas, _place(point), FACE_DOT, WHITE, -1)


def _draw_body(canvas: Image, points: Points, width: int) -> None:
    for (first, second), colour in zip(LIMBS, RAINBOW, strict=False):
        start, end = points[first], points[second]
        if start is not None and end is not None:
            cv2.fillConvexPoly(canvas, _limb(start, end, width), [int(level * LIMB_SHADE) for level in colour])
    for point, colour in zip(points, RAINBOW, strict=True):
        if point is not None:
            cv2.circle(canvas, _place(point), JOINT, colour, -1)


def _limb(start: Point, end: Point, width: int) -> Image:
    """Return an ellipse from one point to the other, as a polygon."""
    across, down = start.x - end.x, start.y - end.y
    centre = int((start.x + end.x) / 2), int((start.y + end.y) / 2)
    angle = int(math.degrees(math.atan2(down, across)))
    return np.asarray(cv2.ellipse2Poly(centre, (int(math.hypot(across, down) / 2), width), angle, 0, 360, 1))


def _draw_hand(canvas: Image, points: Points) -> None:
    for number, (first, second) in enumerate(FINGERS if points else ()):
        start, end = points[first], points[second]
        if start is not None and end is not None and _inside(start) and _inside(end):
            hue = [255 * level for level in colorsys.hsv_to_rgb(number / len(FINGERS), 1.0, 1.0)]
            cv2.line(canvas, _place(start), _place(end), hue, HAND_LINE)
    for point in points:
        if point is not None and _inside(point):
            cv2.circle(canvas, _place(point), JOINT, BLUE, -1)


def _draw_animal(canvas: Image, points: Points) -> None:
    for (first, second), colour in zip(ANIMAL_LIMBS, ANIMAL_COLOURS, strict=True):
        start, end = points[first], points[second]
        if start is not None and end is not None:
            cv2.line(canvas, _place(start), _place(end), colour, ANIMAL_LINE)


def _place(point: Point) -> tuple[int, int]:
    return int(point.x), int(point.y)


def _inside(point: Point) -> bool:
    return int(point.x) > EDGE and int(point.y) > EDGE
