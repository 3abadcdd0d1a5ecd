"""Poses: the object keypoint similarity (OKS) of COCO's evaluation between the people asked for and those drawn.

OKS of two people is the mean of exp(-d^2 / (2 s^2 k^2)) over the points that the first one shows: d is how far apart
the two points are, s^2 the person's area, k = 2 sigma how exactly people mark such a point
(cocodataset.org/#keypoints-eval). COCO's areas are those of the outline, which nobody has here: 0.53 of the box around
the points stands for it, as mmpose does. OpenPose's neck is no point of COCO's and does not count.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ....preprocessors.poses.points import Person, Point, Poses
from .measure import Better, Image, Measure, Sample

SHOULDER, ELBOW, WRIST, HIP, KNEE, ANKLE = 0.079, 0.072, 0.062, 0.107, 0.087, 0.089
NOSE, EYE, EAR = 0.026, 0.025, 0.035
ARM, LEG = (SHOULDER, ELBOW, WRIST), (HIP, KNEE, ANKLE)
SIGMAS = (NOSE, None, *ARM, *ARM, *LEG, *LEG, EYE, EYE, EAR, EAR)  # in OpenPose's order of a body's 18 points
OUTLINE = 0.53  # of the box
SMALLEST = 1.0  # square pixels of a person


class PoseOks(Measure):
    """How well the people drawn stand as they were asked to. Pictures without a person to find do not count."""

    @property
    def better(self) -> Mapping[str, Better]:
        return {"pose_oks": Better.HIGHER}

    def __init__(self, find: Callable[[Image], Poses]) -> None:
        """find: picture [H, W, 3] -> everybody in it. The example's own picture shows what was asked for."""
        self._find = find

    def add(self, sample: Sample) -> Mapping[str, float]:
        assert sample.picture is not None
        height, width = sample.drawn.shape[:2]
        wanted = [each for each in self._find(sample.picture).scaled(width, height).people if _seen(each)]
        if not wanted:
            return {}
        return {"pose_oks": similarity(wanted, self._find(sample.drawn).scaled(width, height).people)}


def similarity(wanted: Sequence[Person], found: Sequence[Person]) -> float:
    """Return the mean OKS of the people asked for; each is matched once, the best pair first, and 0 where left over."""
    scores = np.array([[oks(one, other) for other in found] for one in wanted]).reshape(len(wanted), len(found))
    total = 0.0
    while scores.size and scores.max() > 0:
        row, column = np.unravel_index(scores.argmax(), scores.shape)
        total += float(scores[row, column])
        scores[row, :], scores[:, column] = 0, 0
    return total / len(wanted)


def oks(wanted: Person, found: Person) -> float:
    """Return the similarity of two people, 0 to 1; a point that `found` lacks counts as 0."""
    area = _area(_seen(wanted))
    terms: list[float] = []
    for point, other, sigma in zip(wanted.body, found.body, SIGMAS, strict=True):
        if point is None or sigma is None:
            continue
        away = float("inf") if other is None else (point.x - other.x) ** 2 + (point.y - other.y) ** 2
        terms.append(float(np.exp(-away / (2 * area * (2 * sigma) ** 2))))
    return sum(terms) / len(terms) if terms else 0.0


def _seen(person: Person) -> list[Point]:
    """Return the points of a person that count."""
    return [point for point, sigma in zip(person.body, SIGMAS, strict=True) if point is not None and sigma is not None]


def _area(points: Sequence[Point]) -> float:
    if not points:
        return SMALLEST
    xs, ys = [point.x for point in points], [point.y for point in points]
    return max(SMALLEST, OUTLINE * (max(xs) - min(xs)) * (max(ys) - min(ys)))
