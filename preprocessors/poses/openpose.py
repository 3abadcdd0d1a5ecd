"""OpenPose: points of bodies, hands and faces, drawn as control models know them.

The body's network sees the whole picture at a height of 184 pixels. Hands and faces are cut out where the body says
they are. Sources: OpenPose (Cao et al., 2018; Simon et al., 2017, for hands) as ControlNet's annotator runs it. The
weights may not be used commercially; DWPose may.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# numpy declares some of its methods incompletely; what they return is declared here instead.

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ..declaration import Output, Parameter
from ..networks import weights
from ..networks.loading import load_network, to_array, to_tensor
from ..networks.network import Network
from ..networks.peers import PACKAGE, peer
from ..perform import Preprocessor
from .drawing import draw
from .people import STRIDE, find_people, smoothed
from .points import FACE, HAND, Person, Point, Points, Poses

if TYPE_CHECKING:
    import cv2
    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

    from ..resize import Image
else:
    from ..lazy import cv2, np

HEIGHT = 184  # pixels of the picture as the body's network sees it; half of what it was trained with
PADDING = 128  # grey beside the picture
LEVELS, MIDDLE = 256, 0.5  # pixels / LEVELS - MIDDLE is what all three networks read
HAND_SIZES = (184, 368, 552, 736)  # pixels at which a hand is looked at; the maps are averaged
HAND_BLUR, HAND_MAP = 0.8, 128  # pixels; width of a filter before, and size of the averaged maps
HAND_LEVEL, FACE_LEVEL = 0.05, 0.05  # what a smoothed map of a hand, and a map of a face, must exceed
FACE_SIZE = 384  # pixels at which a face is looked at
SMALLEST = 20  # pixels; smaller hands and faces are not looked at
AT_ONCE = 8  # hands or faces that go through a network together
BEYOND_WRIST = 0.33  # where a hand's centre is, in forearms
HAND_WIDTH, UPPER_ARM = 1.5, 0.9  # a hand's width in forearms, or in so much of an upper arm
EYE_REACH, EAR_REACH = 3.0, 1.5  # half a face's width, in distances from the nose
SHOULDER, ELBOW, WRIST = (5, 2), (6, 3), (7, 4)  # left, right
NOSE, EYES, EARS = 0, (14, 15), (16, 17)


class Box(NamedTuple):
    """A square of a picture, in pixels."""

    x: int
    y: int
    side: int


def find_poses(
    images: Image, body: nn.Module, *others: nn.Module, hands: bool = False, faces: bool = False, **_settings: float
) -> list[Poses]:
    """Return everybody in each picture of [B, H, W, 3]; `others` are the wanted networks of hands and faces."""
    hand = others[0] if hands else None
    face = others[-1] if faces else None
    batch = np.ascontiguousarray(images[..., ::-1])  # blue comes first, as the weights were trained
    return [_pose(image, bodies, hand, face) for image, bodies in zip(batch, _bodies(batch, body), strict=True)]


def draw_poses(
    poses: Poses, _image: Image, thick: int, *, body: bool, hands: bool, face: bool, **_settings: float
) -> Image:
    """Return the picture of `poses` at the size of their canvas."""
    return draw(poses, body=body, hands=hands, face=face, thick=bool(thick))


def hand_boxes(body: Points, width: int, height: int) -> list[Box | None]:
    """Return where the left and the right hand of a body are; None if an arm is not seen, or it is too small."""
    return [
        _hand_box(body[shoulder], body[elbow], body[wrist], width, height)
        for shoulder, elbow, wrist in zip(SHOULDER, ELBOW, WRIST, strict=True)
    ]


def face_box(body: Points, width: int, height: int) -> Box | None:
    """Return where the face of a body is in a picture; None if neither eye nor ear is seen, or it is too small."""
    nose = body[NOSE]
    if nose is None:
        return None
    reach = 0.0
    for places, factor in ((EYES, EYE_REACH), (EARS, EAR_REACH)):
        for point in (body[place] for place in places):
            if point is not None:
                reach = max(reach, factor * max(abs(nose.x - point.x), abs(nose.y - point.y)))
    x, y = max(0.0, nose.x - reach), max(0.0, nose.y - reach)
    across = width - x if x + reach > width else 2 * reach
    down = height - y if y + reach > height else 2 * reach
    side = min(across, down)
    return Box(int(x), int(y), int(side)) if side >= SMALLEST else None


def read_hand(maps: NDArray[np.float64], box: Box) -> Points:
    """Return the 21 points of a hand from its averaged maps [21 or more, 128, 128]; None where a map shows nothing."""
    blur = smoothed(np.eye(HAND_MAP))
    return tuple(_strongest(plane, blur, box) for plane in maps[:HAND])


def read_face(maps: NDArray[np.float32], box: Box) -> Points:
    """Return the 70 points of a face from its maps [71, h, w]; the last map, of what is no point, is left out."""
    points: list[Point | None] = []
    for plane in maps[:FACE]:
        place = int(plane.argmax())
        y, x = divmod(place, plane.shape[1])
        level = float(plane[y, x])
        points.append(Point(box.x + x, box.y + y, min(level, 1.0)) if level > FACE_LEVEL else None)
    return tuple(points)


def _bodies(batch: Image, network: nn.Module) -> list[list[Points]]:
    import torch

    height, width = batch.shape[1:3]
    scale = HEIGHT / height
    used = max(1, int(height * scale)), max(1, int(width * scale))
    bottom, right = -used[0] % STRIDE, -used[1] % STRIDE
    shown = np.stack([_scaled(image, used) for image in batch])
    padded = np.pad(shown, ((0, 0), (0, bottom), (0, right), (0, 0)), constant_values=PADDING)
    with torch.inference_mode():
        fields, heat = (to_array(each) for each in network(to_tensor(padded, network) / LEVELS - MIDDLE))
    return [find_people(maps, field, (height, width), used) for maps, field in zip(heat, fields, strict=True)]


def _scaled(image: Image, size: tuple[int, int]) -> Image:
    filtering = cv2.INTER_AREA if sum(size) < sum(image.shape[:2]) else cv2.INTER_LANCZOS4
    return np.asarray(cv2.resize(image, (size[1], size[0]), interpolation=filtering), np.uint8)


def _pose(image: Image, bodies: Sequence[Points], hand: nn.Module | None, face: nn.Module | None) -> Poses:
    height, width = image.shape[:2]
    hands: list[Points] = [()] * (2 * len(bodies))
    faces: list[Points] = [()] * len(bodies)
    if hand is not None:
        wanted = [box for body in bodies for box in hand_boxes(body, width, height)]
        for number, points in _hands(image, wanted, hand):
            hands[number] = points
    if face is not None:
        for number, points in _faces(image, [face_box(body, width, height) for body in bodies], face):
            faces[number] = points
    people = tuple(
        Person(body=body, left_hand=left, right_hand=right, face=points)
        for body, left, right, points in zip(bodies, hands[::2], hands[1::2], faces, strict=True)
    )
    return Poses(width=width, height=height, people=people)


def _hand_box(shoulder: Point | None, elbow: Point | None, wrist: Point | None, width: int, height: int) -> Box | None:
    if shoulder is None or elbow is None or wrist is None:
        return None
    forearm = math.hypot(wrist.x - elbow.x, wrist.y - elbow.y)
    upper_arm = math.hypot(elbow.x - shoulder.x, elbow.y - shoulder.y)
    side = HAND_WIDTH * max(forearm, UPPER_ARM * upper_arm)
    x = max(0.0, wrist.x + BEYOND_WRIST * (wrist.x - elbow.x) - side / 2)
    y = max(0.0, wrist.y + BEYOND_WRIST * (wrist.y - elbow.y) - side / 2)
    side = min(side, width - x, height - y)
    return Box(int(x), int(y), int(side)) if side >= SMALLEST else None


def _hands(image: Image, boxes: Sequence[Box | None], network: nn.Module) -> Iterator[tuple[int, Points]]:
    for numbers, part in _groups(boxes):
        crops = [np.asarray(cv2.GaussianBlur(_cut(image, box), (0, 0), HAND_BLUR), np.uint8) for box in part]
        total = np.zeros((len(part), HAND, HAND_MAP, HAND_MAP))
        for size in HAND_SIZES:
            maps = _maps(crops, size, network)[:, :HAND]
            shrink = _to_hand_map(size)
            total += shrink @ maps @ shrink.T / len(HAND_SIZES)
        for number, box, maps in zip(numbers, part, total, strict=True):
            yield number, read_hand(maps, box)


@cache
def _to_hand_map(size: int) -> NDArray[np.float64]:
    """Return the matrix [128, cells] that enlarges one axis of a map to the network's input and shrinks it to 128."""
    cells = size // STRIDE
    eye = np.eye(cells, dtype=np.float32)
    large = cv2.resize(eye, (cells, size), interpolation=cv2.INTER_LANCZOS4)
    return np.asarray(cv2.resize(large, (cells, HAND_MAP), interpolation=cv2.INTER_AREA), np.float64)


def _strongest(plane: NDArray[np.float64], blur: NDArray[np.float64], box: Box) -> Point | None:
    """Return the highest place of the region that holds most; faint regions far away do not count."""
    mask = ((blur @ plane @ blur.T) > HAND_LEVEL).astype(np.uint8)
    if not mask.any():
        return None
    _, labels = cv2.connectedComponents(mask, connectivity=8)
    regions = np.asarray(labels)
    sums = np.bincount(regions.ravel(), weights=plane.ravel())
    best = 1 + int(sums[1:].argmax())
    inside = np.where(regions == best, plane, 0)
    y, x = divmod(int(inside.argmax()), HAND_MAP)
    level = min(float(plane[y, x]), 1.0)
    return Point(box.x + int(x * box.side / HAND_MAP), box.y + int(y * box.side / HAND_MAP), max(level, 0.0))


def _faces(image: Image, boxes: Sequence[Box | None], network: nn.Module) -> Iterator[tuple[int, Points]]:
    import torch
    from torch.nn import functional

    for numbers, part in _groups(boxes):
        crops = [_cut(image, box) for box in part]
        with torch.inference_mode():
            pixels = to_tensor(np.stack([_scaled(crop, (FACE_SIZE, FACE_SIZE)) for crop in crops]), network)
            result = network(pixels / LEVELS - MIDDLE)[-1]
        for number, box, crop, maps in zip(numbers, part, crops, result, strict=True):
            with torch.inference_mode():
                full = functional.interpolate(maps[None], crop.shape[:2], mode="bilinear", align_corners=True)
            yield number, read_face(to_array(full[0]), box)


def _groups(boxes: Sequence[Box | None]) -> Iterator[tuple[list[int], list[Box]]]:
    """Yield those that exist, with their numbers, a few at a time."""
    present = [(number, box) for number, box in enumerate(boxes) if box is not None]
    for start in range(0, len(present), AT_ONCE):
        part = present[start : start + AT_ONCE]
        yield [number for number, _ in part], [box for _, box in part]


def _cut(image: Image, box: Box) -> Image:
    return np.ascontiguousarray(image[box.y : box.y + box.side, box.x : box.x + box.side])


def _maps(crops: Sequence[Image], size: int, network: nn.Module) -> NDArray[np.float32]:
    import torch

    pixels = np.stack([_scaled(crop, (size, size)) for crop in crops])
    with torch.inference_mode():
        return to_array(network(to_tensor(pixels, network) / LEVELS - MIDDLE))


def _load_part(path: Path, *, name: str) -> nn.Module:
    """Return the network of body or hand; the file's keys lack the part of the network in which a layer lies."""
    import torch

    build = getattr(peer("open_pose.model"), name)
    with torch.device("meta"):
        keys = {key.partition(".")[2]: key for key in build().state_dict()}
    return load_network(path, build, lambda key: keys.get(key, key))


def _load_face(path: Path) -> nn.Module:
    return load_network(path, peer("open_pose.face").FaceNet)


def _entry(kind: str, title: str, doc: str, *aliases: str, body: bool, hands: bool, face: bool) -> Preprocessor:
    return Preprocessor(
        id=kind,
        title=title,
        doc=doc,
        run=partial(find_poses, hands=hands, faces=face),
        finish=partial(draw_poses, body=body, hands=hands, face=face),
        finds_poses=True,
        output=Output.LABELS,
        polarity="limbs and points in colours of their own on black",
        aliases=aliases,
        control_types=("OpenPose",),
        parameters=(THICK,),
        networks=(BODY_NETWORK, *((HAND_NETWORK,) if hands else ()), *((FACE_NETWORK,) if face else ())),
        batchable=True,
        pad=1,
    )


BODY_NETWORK = Network(
    id="openpose_body", files=(weights.OPENPOSE_BODY,), load=partial(_load_part, name="bodypose_model"),
    packages=(PACKAGE,), memory=500,
)  # fmt: skip
HAND_NETWORK = Network(
    id="openpose_hand", files=(weights.OPENPOSE_HAND,), load=partial(_load_part, name="handpose_model"),
    packages=(PACKAGE,), memory=500,
)  # fmt: skip
FACE_NETWORK = Network(
    id="openpose_face", files=(weights.OPENPOSE_FACE,), load=_load_face,
    packages=(PACKAGE, "scipy", "torchvision"), memory=500,
)  # fmt: skip

THICK = Parameter(
    name="thick", label="Thick limbs", default=0, minimum=0, maximum=1, step=1,
    doc="1: limbs grow with the picture, as xinsir's SDXL models want them.",
)  # fmt: skip

OPENPOSE = _entry(
    "openpose", "Pose (OpenPose)", "Bodies of all people, with 18 points each.", body=True, hands=False, face=False
)
OPENPOSE_HAND = _entry(
    "openpose_hand", "Pose (OpenPose, hands)", "Bodies and hands.", body=True, hands=True, face=False
)
OPENPOSE_FACE = _entry("openpose_face", "Pose (OpenPose, face)", "Bodies and faces.", body=True, hands=False, face=True)
OPENPOSE_FACEONLY = _entry(
    "openpose_faceonly", "Pose (OpenPose, face only)", "Faces alone.", body=False, hands=False, face=True
)
OPENPOSE_FULL = _entry(
    "openpose_full", "Pose (OpenPose, full)", "Bodies, hands and faces.", body=True, hands=True, face=True
)
