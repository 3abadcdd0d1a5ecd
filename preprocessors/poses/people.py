"""People from OpenPose's maps: which peaks are points of bodies, and which points belong to one person.

The network gives a map for each kind of point and a field of directions for each kind of limb, at an eighth of its
input. Other programs enlarge all 57 maps to the picture and smooth them there, which takes longer than the network.
Enlarging and smoothing are linear and go along one axis at a time, so here each is a small matrix: a map is enlarged
and smoothed in two products, and the fields, of which only a few places matter, are never enlarged at all.

Source: Cao et al.: OpenPose: realtime multi-person 2D pose estimation using part affinity fields, 2018; the numbers are
those of ControlNet's annotator, so that the same people are found.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# numpy declares some of its methods incompletely; what they return is declared here instead.

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .points import BODY, Point, Points

if TYPE_CHECKING:
    import cv2
    import numpy as np
    from numpy.typing import NDArray

    Map = NDArray[Any]  # of floats
    Rows = NDArray[np.intp]
else:
    from ..lazy import cv2, np

STRIDE = 8  # pixels of the network's input for each of its result
SMOOTH = 3.0  # pixels of the picture; width of the filter before peaks are sought
REACH = 12  # pixels; where that filter ends, four times its width
PEAK = 0.1  # what a smoothed peak must exceed
SAMPLES, FITTING, FIT = 10, 8, 0.05  # places looked at on a limb, how many at least must fit better than so much
LIMBS = (  # pairs of points, in the order in which people are put together
    (1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10), (1, 11), (11, 12), (12, 13), (1, 0),
    (0, 14), (14, 16), (0, 15), (15, 17), (2, 16), (5, 17),
)  # fmt: skip
FIELDS = (12, 20, 14, 16, 22, 24, 0, 2, 4, 6, 8, 10, 28, 30, 34, 32, 36, 18, 26)  # where x, y of each limb's field are
PAIRS = 4096  # of peaks that are looked at together, so that a noisy map needs time but no memory
WORTH = 16  # pixels that are enlarged with all others at the cost of one that is enlarged alone
FOUNDING = 17  # limbs that may begin a person; the last two, shoulder to ear, only add to one
FEWEST, WEAKEST = 4, 0.4  # points of a person, and their mean score


@dataclass(frozen=True, slots=True)
class Enlargement:
    """Matrices [pixels, cells] that enlarge a map to the picture: `rows @ map @ columns.T`, and smoothed as well."""

    rows: Map
    columns: Map
    smooth_rows: Map
    smooth_columns: Map


@dataclass(slots=True)
class _Draft:
    """A person in the making: numbers of peaks, or -1."""

    points: list[int]
    score: float
    count: int

    def add(self, place: int, peak: int, score: float) -> None:
        self.points[place] = peak
        self.score += score
        self.count += 1

    def overlaps(self, other: _Draft) -> bool:
        return any(mine >= 0 and theirs >= 0 for mine, theirs in zip(self.points, other.points, strict=True))

    def absorb(self, other: _Draft, score: float) -> None:
        self.points = [max(mine, theirs) for mine, theirs in zip(self.points, other.points, strict=True)]
        self.score += other.score + score
        self.count += other.count


def find_people(heat: Map, fields: Map, size: tuple[int, int], used: tuple[int, int]) -> list[Points]:
    """Return the bodies in maps [18 or more, h, w] and fields [38, h, w] of a picture of `size` (height, width).

    `used` (height, width) is what of the network's input showed the picture, in its pixels; the rest was padding.
    """
    scale = enlargement((heat.shape[1], heat.shape[2]), used, size)
    peaks = [find_peaks(plane, scale) for plane in heat[:BODY]]
    starts = np.cumsum([0, *(len(each) for each in peaks)]).tolist()
    drafts: list[_Draft] = []
    scores = np.concatenate([each[:, 2] for each in peaks]).tolist()
    for limb, ((first, second), field) in enumerate(zip(LIMBS, FIELDS, strict=True)):
        links = _links(peaks[first], peaks[second], fields[field : field + 2], scale)
        for a, b, score in links:
            _connect(drafts, limb, starts[first] + a, starts[second] + b, score, scores)
    places = [Point(*row) for row in np.concatenate(peaks).tolist()]
    kept = [each for each in drafts if each.count >= FEWEST and each.score / each.count >= WEAKEST]
    return [tuple(places[index] if index >= 0 else None for index in each.points) for each in kept]


def enlargement(cells: tuple[int, int], used: tuple[int, int], size: tuple[int, int]) -> Enlargement:
    """Return what enlarges a map to the network's input by Lanczos' filter, without the padding, and to the picture."""
    shrinks = sum(size) < sum(used)
    rows, columns = (_axis(*each, shrinks) for each in zip(cells, used, size, strict=True))
    return Enlargement(rows, columns, smoothed(rows), smoothed(columns))


def smoothed(matrix: Map) -> Map:
    """Return a matrix [pixels, cells] followed by the smoothing along the pixels."""
    kernel = 2 * REACH + 1
    blurred = cv2.GaussianBlur(matrix, (1, kernel), sigmaX=SMOOTH, sigmaY=SMOOTH, borderType=cv2.BORDER_REFLECT)
    return np.asarray(blurred).reshape(matrix.shape)


def find_peaks(plane: Map, scale: Enlargement) -> Map:
    """Return x, y and score [N, 3] of every local maximum of a map, from top to bottom."""
    top, rows = _lit(scale.smooth_rows, plane, scale.smooth_columns)
    left, columns = _lit(scale.smooth_columns, plane.T, rows)
    smooth = rows @ plane @ columns.T
    y, x = np.nonzero(smooth > PEAK)
    for down, across in ((0, 1), (1, 0), (0, -1), (-1, 0)):  # nothing lies beyond the edge
        beside = smooth[np.clip(y + down, 0, smooth.shape[0] - 1), np.clip(x + across, 0, smooth.shape[1] - 1)]
        highest = beside <= smooth[y, x]
        y, x = y[highest], x[highest]
    y, x = y + top, x + left
    return np.stack([x, y, _reader(plane, scale, len(y))(y, x)], axis=1)


def _lit(along: Map, plane: Map, across: Map) -> tuple[int, Map]:
    """Return the first pixel along one axis that can exceed a peak's level anywhere, and the matrix of all such pixels.

    No pixel is larger than the sum of what its cells can contribute; of a map of few people, most are ruled out.
    """
    most = np.abs(across).max(axis=0, initial=0)
    able = np.flatnonzero(np.abs(along @ plane) @ most > PEAK)
    if not len(able):
        return 0, along[:0]
    return int(able[0]), along[able[0] : able[-1] + 1]


def _reader(plane: Map, scale: Enlargement, count: int) -> Callable[[Rows, Rows], Map]:
    """Return what gives the values [N] of an enlarged map at rows and columns [N], `count` in all."""
    tall = scale.rows @ plane
    height, width = len(scale.rows), len(scale.columns)
    if count * WORTH > height * width:
        whole: Map = np.asarray(tall @ scale.columns.T)
        return lambda y, x: np.asarray(whole[y, x])
    return lambda y, x: np.einsum("nw,nw->n", tall[y], scale.columns[x])


def _axis(cells: int, used: int, size: int, shrinks: bool) -> Map:
    """Return the matrix [size, cells] of the two enlargements of one axis, found by enlarging unit vectors."""
    eye = np.eye(cells, dtype=np.float32)
    input_pixels = np.asarray(cv2.resize(eye, (cells, cells * STRIDE), interpolation=cv2.INTER_LANCZOS4))[:used]
    filtering = cv2.INTER_AREA if shrinks else cv2.INTER_LANCZOS4
    matrix = cv2.resize(np.ascontiguousarray(input_pixels), (cells, size), interpolation=filtering)
    return np.asarray(matrix, np.float64).reshape(size, cells)  # two places of one peak differ little


def _links(starts: Map, ends: Map, field: Map, scale: Enlargement) -> list[tuple[int, int, float]]:
    """Return limbs between two kinds of peaks, each peak in at most one, the best first."""
    found: list[tuple[int, int, float]] = []
    field_at = [_reader(plane, scale, SAMPLES * len(starts) * len(ends)) for plane in field]
    at_once = max(1, PAIRS // max(1, len(ends)))
    for first in range(0, len(starts) if len(ends) else 0, at_once):
        scores = _scores(starts[first : first + at_once, None, :2], ends[None, :, :2], field_at, len(scale.rows))
        a, b = np.nonzero(scores > 0)
        found += zip((a + first).tolist(), b.tolist(), scores[a, b].tolist(), strict=True)
    found.sort(key=lambda link: -link[2])
    links: list[tuple[int, int, float]] = []
    taken_starts: set[int] = set()
    taken_ends: set[int] = set()
    for a, b, score in found:
        if a not in taken_starts and b not in taken_ends:
            links.append((a, b, score))
            taken_starts.add(a)
            taken_ends.add(b)
    return links


def _scores(starts: Map, ends: Map, field_at: Sequence[Callable[[Rows, Rows], Map]], height: int) -> Map:
    """Return how well the field points from [N, 1, 2] to [1, M, 2] as [N, M], 0 where not. Long limbs count less."""
    way = ends - starts
    length = np.maximum(np.sqrt((way**2).sum(axis=-1)), 0.001)
    places = np.rint(np.linspace(np.broadcast_to(starts, way.shape), way + starts, SAMPLES)).astype(np.intp)
    x, y = places[..., 0].ravel(), places[..., 1].ravel()
    across, down = (read(y, x).reshape(places.shape[:-1]) for read in field_at)
    fits = across * (way[..., 0] / length) + down * (way[..., 1] / length)
    score = fits.mean(axis=0) + np.minimum(0.5 * height / length - 1, 0)
    return np.where((fits > FIT).sum(axis=0) > FITTING, np.maximum(score, 0), 0)


def _connect(drafts: list[_Draft], limb: int, a: int, b: int, score: float, scores: Sequence[float]) -> None:
    """Give a limb to the person that has one of its ends, join two people, or begin a new one."""
    first, second = LIMBS[limb]
    owners = [each for each in drafts if each.points[first] == a or each.points[second] == b]
    if not owners:
        if limb < FOUNDING:
            points = [-1] * BODY
            points[first], points[second] = a, b
            drafts.append(_Draft(points, scores[a] + scores[b] + score, 2))
    elif len(owners) == 1 and owners[0].points[second] == b:
        pass  # both ends are there already
    elif len(owners) == 1 or owners[0].overlaps(owners[1]):
        owners[0].add(second, b, scores[b] + score)
    else:
        owners[0].absorb(owners[1], score)
        drafts[:] = [each for each in drafts if each is not owners[1]]
