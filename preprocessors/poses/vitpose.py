"""ViTPose: points of bodies by a plain transformer, through transformers.

RT-DETR finds people, ViTPose the points of each as maps of heat, and a point lies where a paraboloid through the
logarithm of its map is highest. Sources: Xu et al., ViTPose, 2022; Zhao et al., RT-DETR, 2023; Huang et al., The devil
is in the details, 2020, and Zhang et al., Distribution-aware coordinate representation, 2020, for what is half a pixel.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# torch and transformers declare some functions incompletely; what they return is declared here instead.

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from ..declaration import Output
from ..networks.loading import to_array, to_tensor
from ..networks.pretrained import IMAGENET, checkpoint, transformer
from ..perform import Preprocessor
from .dwpose import Box, enlarged, seen
from .openpose import THICK, draw_poses
from .points import Person, Poses, body_of

if TYPE_CHECKING:
    import cv2
    import numpy as np
    from numpy.typing import NDArray

    from ..resize import Image

    Floats = NDArray[np.floating[Any]]
else:
    from ..lazy import cv2, np

LOOK = 640  # pixels of the square at which RT-DETR looks
FOUND, PERSON = 0.3, 0  # score from which a box counts, and the class of people
BLUR, KERNEL = 0.8, 11  # width of the filter that smooths a map, and its size, in cells
FLOOR, CEILING = 0.001, 50.0  # of heat, before its logarithm
AT_ONCE = 16  # people that go through the network together
TINY = 1.1920929e-07  # keeps a flat map's curvature from being nothing: float32's epsilon, as the authors use


def find_people(images: Image, detector: Any, network: Any, **_settings: float) -> list[Poses]:
    """Return the bodies in each picture of [B, H, W, 3]."""
    return [
        Poses(width=image.shape[1], height=image.shape[0], people=tuple(_people(image, detector, network)))
        for image in images
    ]


def find_boxes(image: Image, detector: Any) -> Floats:
    """Return the boxes [N, 4] (left, top, right, bottom) of everybody in [H, W, 3], in pixels."""
    import torch
    from torch.nn import functional

    pixels = to_tensor(image[None], detector) / 255
    with torch.inference_mode():
        square = functional.interpolate(pixels, (LOOK, LOOK), mode="bilinear", align_corners=False, antialias=True)
        found = detector(square)
    scores = to_array(found.logits[0].sigmoid())[:, PERSON]
    middle = to_array(found.pred_boxes[0])[scores > FOUND] * np.array(image.shape[1::-1] * 2, np.float32)
    return np.concatenate([middle[:, :2] - middle[:, 2:] / 2, middle[:, :2] + middle[:, 2:] / 2], axis=1)


def read_points(heat: Floats, box: Box) -> tuple[Floats, Floats]:
    """Return places [K, 2] in the picture and scores [K] from maps [K, h, w] of a box."""
    count, height, width = heat.shape
    place = heat.reshape(count, -1).argmax(axis=1)
    cells = np.stack([place % width, place // width], axis=1).astype(np.float64)
    cells -= np.stack([_step(plane, int(index)) for plane, index in zip(heat, place, strict=True)])
    span = np.array([box.width, box.height])
    places = cells * span / (np.array([width, height]) - 1) + np.array([box.x, box.y]) - span / 2
    return places, heat.reshape(count, -1).max(axis=1)


def _people(image: Image, detector: Any, network: Any) -> list[Person]:
    import torch

    height, width = (int(side) for side in network.config.backbone_config.image_size)
    boxes = [enlarged(corners, (height, width)) for corners in find_boxes(image, detector)]
    found: list[Person] = []
    for start in range(0, len(boxes), AT_ONCE):
        group = boxes[start : start + AT_ONCE]
        crops = np.stack([_cut(image, box, (height, width)) for box in group])
        parameter = next(iter(network.parameters()))
        with torch.inference_mode():
            heat = to_array(network(torch.from_numpy(crops).to(parameter)).heatmaps)
        points = [seen(*read_points(each, box)) for each, box in zip(heat, group, strict=True)]
        found += [Person(body=body_of(each)) for each in points]
    return found


def _cut(image: Image, box: Box, size: tuple[int, int]) -> NDArray[np.float32]:
    """Return what is in a box, [3, height, width]; the middles of its outermost pixels lie on its border."""
    across, down = (size[1] - 1) / box.width, (size[0] - 1) / box.height
    matrix = np.array([
        [across, 0, across * (box.width / 2 - box.x)],
        [0, down, down * (box.height / 2 - box.y)],
    ])  # fmt: skip
    crop = np.asarray(cv2.warpAffine(image, matrix, (size[1], size[0]), flags=cv2.INTER_LINEAR))
    mean, deviation = (np.array(each) for each in IMAGENET)
    return ((crop / 255 - mean) / deviation).transpose(2, 0, 1).astype(np.float32)


def _step(plane: Floats, place: int) -> Floats:
    """Return by how much (x, y) the top of a paraboloid lies before the strongest cell."""
    smooth = np.asarray(cv2.GaussianBlur(plane, (KERNEL, KERNEL), BLUR, borderType=cv2.BORDER_REFLECT), np.float64)
    logarithm = np.pad(np.log(smooth.clip(FLOOR, CEILING)), 1, mode="edge")
    y, x = divmod(place, plane.shape[1])
    near = logarithm[y : y + 3, x : x + 3]
    slope = np.array([near[1, 2] - near[1, 0], near[2, 1] - near[0, 1]]) / 2
    xx, yy = near[1, 2] - 2 * near[1, 1] + near[1, 0], near[2, 1] - 2 * near[1, 1] + near[0, 1]
    xy = (near[2, 2] - near[1, 2] - near[2, 1] + 2 * near[1, 1] - near[1, 0] - near[0, 1] + near[0, 0]) / 2
    return np.linalg.solve(np.array([[xx, xy], [xy, yy]]) + TINY * np.eye(2), slope)


DETECTOR = transformer(
    "rtdetr", "RTDetrForObjectDetection",
    checkpoint("PekingU/rtdetr_r50vd_coco_o365", "Apache-2.0", megabytes=172),
    since="4.48", memory=4000, packages=("scipy",),
)  # fmt: skip
NETWORK = transformer(
    "vitpose",
    "VitPoseForPoseEstimation",
    checkpoint("usyd-community/vitpose-base-simple", "Apache-2.0", megabytes=360),
    since="4.48",
)

VITPOSE = Preprocessor(
    id="vitpose",
    title="Pose (ViTPose)",
    doc="Bodies of all people, without hands and faces, by networks that are free to use.",
    run=find_people,
    finish=partial(draw_poses, body=True, hands=False, face=False),
    finds_poses=True,
    output=Output.LABELS,
    polarity="limbs and points in colours of their own on black",
    control_types=("OpenPose",),
    parameters=(THICK,),
    networks=(DETECTOR, NETWORK),
    batchable=True,
    pad=1,
)
