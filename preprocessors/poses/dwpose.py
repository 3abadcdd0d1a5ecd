"""DWPose and RTMPose: points of bodies, hands, faces and animals by networks that may be used commercially.

One network finds people or animals, a second the points of each. Sources: YOLOX (Ge et al., 2021), which was trained on
pictures with blue first; RTMPose (Jiang et al., 2023) and DWPose (Yang et al., 2023), on red first. A coordinate is the
strongest of a row of bins, two for each pixel (SimCC, Li et al., 2022). Peers feed both networks the same channels.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# numpy declares some of its methods incompletely; what they return is declared here instead.

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from ..boxes import best
from ..declaration import Output
from ..networks import weights
from ..networks.onnx_files import OnnxNetwork, onnx_network
from ..perform import Preprocessor
from .openpose import THICK, draw_poses
from .points import Person, Point, Points, Poses, body_of

if TYPE_CHECKING:
    import cv2
    import numpy as np
    from numpy.typing import NDArray

    from ..resize import Image

    Floats = NDArray[np.floating[Any]]
else:
    from ..lazy import cv2, np

GREY = 114  # beside the picture, as YOLOX was trained
STRIDES = (8, 16, 32)  # pixels of its three grids
FOUND, OVERLAP = 0.3, 0.45  # score from which a box counts, and the share of union above which two are one
PERSON, ANIMALS = (0,), tuple(range(14, 24))  # classes of COCO: birds to giraffes
ROOM = 1.25  # a box is enlarged by this before it is cut out
BINS = 2  # of a pixel
SEEN = 0.3  # score from which a point counts
MEAN, DEVIATION = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # of ImageNet's red, green and blue
AT_ONCE = 16  # people that go through the network together
FACE, LEFT_HAND, RIGHT_HAND = slice(23, 91), slice(91, 112), slice(112, 133)  # in COCO's whole body
EYES = (14, 15)  # OpenPose's points that follow the 68 of a face


class Box(NamedTuple):
    """Where somebody is, in pixels: the middle, and a size of the proportions that the network takes."""

    x: float
    y: float
    width: float
    height: float


def find_people(images: Image, detector: OnnxNetwork, network: OnnxNetwork, **_settings: float) -> list[Poses]:
    """Return everybody in each picture of [B, H, W, 3], with hands and faces."""
    return [
        Poses(
            width=image.shape[1],
            height=image.shape[0],
            people=tuple(person(*found) for found in find_points(image, detector, network, PERSON)),
        )
        for image in images
    ]


def find_bodies(images: Image, detector: OnnxNetwork, network: OnnxNetwork, **_settings: float) -> list[Poses]:
    """Return everybody in each picture of [B, H, W, 3], without hands and faces."""
    return [
        Poses(
            width=image.shape[1],
            height=image.shape[0],
            people=tuple(Person(body=body_of(seen(*found))) for found in find_points(image, detector, network, PERSON)),
        )
        for image in images
    ]


def find_animals(images: Image, detector: OnnxNetwork, network: OnnxNetwork, **_settings: float) -> list[Poses]:
    """Return every animal in each picture of [B, H, W, 3]."""
    return [
        Poses(
            width=image.shape[1],
            height=image.shape[0],
            animals=tuple(seen(*found) for found in find_points(image, detector, network, ANIMALS)),
        )
        for image in images
    ]


def find_points(
    image: Image, detector: OnnxNetwork, network: OnnxNetwork, classes: Sequence[int]
) -> list[tuple[Floats, Floats]]:
    """Return the places [K, 2] in pixels and scores [K] of everything of some classes in [H, W, 3]."""
    boxes = [enlarged(corners, network.size) for corners in find_boxes(image, detector, classes)]
    found: list[tuple[Floats, Floats]] = []
    for start in range(0, len(boxes), AT_ONCE):
        group = boxes[start : start + AT_ONCE]
        across, down = network(np.stack([_cut(image, box, network.size) for box in group]))
        found += [read_points(across[row], down[row], box, network.size) for row, box in enumerate(group)]
    return found


def find_boxes(image: Image, detector: OnnxNetwork, classes: Sequence[int]) -> Floats:
    """Return the boxes [N, 4] (left, top, right, bottom) of what is found in [H, W, 3], best first."""
    height, width = detector.size
    scale = min(height / image.shape[0], width / image.shape[1])
    used = max(1, int(image.shape[0] * scale)), max(1, int(image.shape[1] * scale))
    framed = np.full((height, width, 3), GREY, np.uint8)
    framed[: used[0], : used[1]] = cv2.resize(image, (used[1], used[0]), interpolation=cv2.INTER_LINEAR)
    blue_first = framed[..., ::-1].transpose(2, 0, 1)[None].astype(np.float32)
    corners, scores = read_boxes(detector(np.ascontiguousarray(blue_first))[0][0], detector.size, classes)
    return corners[best(corners, scores, OVERLAP)] / scale


def read_boxes(raw: Floats, size: tuple[int, int], classes: Sequence[int]) -> tuple[Floats, Floats]:
    """Return corners [N, 4] in pixels and scores [N] of some classes, from the network's [cells, 5 + classes]."""
    cells, strides = _grid(size)
    middle = (raw[:, :2] + cells) * strides
    half = np.exp(raw[:, 2:4]) * strides / 2
    scores = (raw[:, 4:5] * raw[:, 5:])[:, list(classes)].max(axis=1)
    kept = scores > FOUND
    return np.concatenate([middle - half, middle + half], axis=1)[kept], scores[kept]


def enlarged(corners: Floats, size: tuple[int, int]) -> Box:
    """Return a box with room around it, in the proportions of `size`, height and width."""
    left, top, right, bottom = (float(each) for each in corners)
    width, height = (right - left) * ROOM, (bottom - top) * ROOM
    shape = size[1] / size[0]
    return Box((left + right) / 2, (top + bottom) / 2, max(width, height * shape), max(height, width / shape))


def read_points(across: Floats, down: Floats, box: Box, size: tuple[int, int]) -> tuple[Floats, Floats]:
    """Return places [K, 2] in the picture and scores [K], from the bins [K, width * 2] and [K, height * 2] of a box."""
    places = np.stack([across.argmax(axis=1), down.argmax(axis=1)], axis=1) / BINS
    scores = np.minimum(across.max(axis=1), down.max(axis=1))
    span = np.array([box.width, box.height])
    return places / np.array(size[::-1]) * span + np.array([box.x, box.y]) - span / 2, scores


def person(places: Floats, scores: Floats) -> Person:
    """Return a person with OpenPose's points from the 133 of COCO's whole body."""
    points = seen(places, scores)
    body = body_of(points)
    return Person(
        body=body,
        left_hand=points[LEFT_HAND],
        right_hand=points[RIGHT_HAND],
        face=(*points[FACE], *(body[eye] for eye in EYES)),
    )


def seen(places: Floats, scores: Floats) -> Points:
    """Return points, None where the network is not sure."""
    return tuple(
        Point(float(x), float(y), min(float(score), 1.0)) if score >= SEEN else None
        for (x, y), score in zip(places, scores, strict=True)
    )


def _grid(size: tuple[int, int]) -> tuple[Floats, Floats]:
    """Return column and row [cells, 2] of each cell of the three grids, and its side [cells, 1] in pixels."""
    cells: list[Floats] = []
    sides: list[Floats] = []
    for stride in STRIDES:
        rows, columns = np.mgrid[: size[0] // stride, : size[1] // stride]
        cells.append(np.stack([columns.ravel(), rows.ravel()], axis=1))
        sides.append(np.full((rows.size, 1), stride))
    return np.concatenate(cells), np.concatenate(sides)


def _cut(image: Image, box: Box, size: tuple[int, int]) -> NDArray[np.float32]:
    """Return what is in a box, [3, height, width], red first; black beside the picture."""
    scale = size[1] / box.width
    matrix = np.array([
        [scale, 0, size[1] / 2 - box.x * scale],
        [0, size[0] / box.height, size[0] / 2 - box.y * size[0] / box.height],
    ])  # fmt: skip
    crop = np.asarray(cv2.warpAffine(image, matrix, (size[1], size[0]), flags=cv2.INTER_LINEAR))
    return ((crop - np.array(MEAN)) / np.array(DEVIATION)).transpose(2, 0, 1).astype(np.float32)


DETECTOR = onnx_network("yolox_l", weights.YOLOX, outputs=1)
WHOLE_BODY = onnx_network("dwpose", weights.DWPOSE, outputs=2)
RTMPOSE_NETWORK = onnx_network("rtmpose_halpe26", weights.RTMPOSE, outputs=2)
AP10K = onnx_network("rtmpose_ap10k", weights.RTMPOSE_ANIMAL, outputs=2)

DW_OPENPOSE_FULL = Preprocessor(
    id="dw_openpose_full",
    title="Pose (DWPose)",
    doc="Bodies, hands and faces of all people; more exact than OpenPose, and free to use.",
    run=find_people,
    finish=partial(draw_poses, body=True, hands=True, face=True),
    finds_poses=True,
    output=Output.LABELS,
    polarity="limbs and points in colours of their own on black",
    aliases=("dwpose",),
    control_types=("OpenPose",),
    parameters=(THICK,),
    networks=(DETECTOR, WHOLE_BODY),
    batchable=True,
    pad=1,
)
RTMPOSE = Preprocessor(
    id="rtmpose",
    title="Pose (RTMPose)",
    doc="Bodies of all people, without hands and faces, by a small and fast network.",
    run=find_bodies,
    finish=partial(draw_poses, body=True, hands=False, face=False),
    finds_poses=True,
    output=Output.LABELS,
    polarity="limbs and points in colours of their own on black",
    aliases=("rtmpose_body",),
    control_types=("OpenPose",),
    parameters=(THICK,),
    networks=(DETECTOR, RTMPOSE_NETWORK),
    batchable=True,
    pad=1,
)
ANIMAL_OPENPOSE = Preprocessor(
    id="animal_openpose",
    title="Pose (animals)",
    doc="Birds, cats, dogs, horses, sheep, cows, elephants, bears, zebras and giraffes, with 17 points each.",
    run=find_animals,
    finish=partial(draw_poses, thick=0, body=True, hands=True, face=True),
    finds_poses=True,
    output=Output.LABELS,
    polarity="limbs in colours of their own on black",
    control_types=("OpenPose",),
    networks=(DETECTOR, AP10K),
    batchable=True,
    pad=1,
)
