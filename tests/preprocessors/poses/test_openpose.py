"""OpenPose: people from maps, hands and faces from theirs, and the whole against controlnet-aux on the same weights."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from controlstack.core.errors import PreprocessorError
from controlstack.preprocessors import find
from controlstack.preprocessors.networks.network import Network
from controlstack.preprocessors.networks.peers import peer
from controlstack.preprocessors.poses import openpose
from controlstack.preprocessors.poses.drawing import draw
from controlstack.preprocessors.poses.openpose import Box, face_box, hand_boxes, read_face, read_hand
from controlstack.preprocessors.poses.people import FIELDS, LIMBS, find_people
from controlstack.preprocessors.poses.points import Person, Point, Poses, from_json, to_json
from skimage import data
from torch import nn

STANDING = (  # x, y of 18 points in heights of a person, whose neck is the origin
    (0, -0.12), (0, 0), (-0.11, 0.02), (-0.16, 0.17), (-0.19, 0.32), (0.11, 0.02), (0.16, 0.17), (0.21, 0.31),
    (-0.07, 0.36), (-0.08, 0.58), (-0.08, 0.8), (0.07, 0.36), (0.08, 0.58), (0.09, 0.8), (-0.03, -0.15), (0.03, -0.15),
    (-0.06, -0.13), (0.06, -0.13),
)  # fmt: skip


def person(x: float, y: float, size: float, missing: tuple[int, ...] = ()) -> list[tuple[float, float] | None]:
    return [
        None if number in missing else (x + size * across, y + size * down)
        for number, (across, down) in enumerate(STANDING)
    ]


def paint(people: list[list[tuple[float, float] | None]], cells: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """What a perfect network would say of people whose points are in cells: maps [19, h, w] and fields [38, h, w]."""
    rows, columns = np.mgrid[: cells[0], : cells[1]].astype(np.float32)
    heat, fields = np.zeros((19, *cells), np.float32), np.zeros((38, *cells), np.float32)
    rng = np.random.default_rng(0)
    for points in people:
        for number, point in enumerate(points):
            if point is not None:
                distance = (columns - point[0]) ** 2 + (rows - point[1]) ** 2
                heat[number] = np.maximum(heat[number], rng.uniform(0.6, 0.95) * np.exp(-distance / 1.5))
        for (first, second), field in zip(LIMBS, FIELDS, strict=True):
            start, end = points[first], points[second]
            if start is None or end is None:
                continue
            length = math.hypot(end[0] - start[0], end[1] - start[1])
            across, down = (end[0] - start[0]) / length, (end[1] - start[1]) / length
            along = (columns - start[0]) * across + (rows - start[1]) * down
            aside = np.abs((columns - start[0]) * down - (rows - start[1]) * across)
            inside = (along > -0.5) & (along < length + 0.5) & (aside < 1)
            fields[field][inside], fields[field + 1][inside] = across, down
    heat += rng.normal(0, 0.01, heat.shape).astype(np.float32)
    fields += rng.normal(0, 0.02, fields.shape).astype(np.float32)
    return heat, fields


OLD = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")  # of what controlnet-aux calls
CROWDS = {
    "nobody": [],
    "one": [person(11, 6, 16)],
    "parts": [person(11, 6, 16, missing=(4, 9, 10, 14, 16))],
    "three": [person(5, 5, 15), person(15, 7, 14), person(26, 6, 16, missing=(0, 14, 15, 16, 17))],
    "touching": [person(10, 6, 15), person(14, 6, 15), person(18, 7, 14)],
    "tiny": [person(4 + 5 * column, 3 + 8 * row, 7) for column in range(6) for row in range(3)],
}
SIZES = [("three", (511, 513)), ("three", (720, 700)), ("one", (64, 200)), *((crowd, (256, 384)) for crowd in CROWDS)]


COMPARED = "controlnet_aux", "scipy", "huggingface_hub"  # what its bodies and hands need; faces need torchvision too


def bodies() -> Any:
    """What finds bodies; its file and `util` import each other, which works only in this order."""
    peer("open_pose.util")
    return peer("open_pose.body").Body


class Painted(nn.Module):
    """A network that says the same of every picture."""

    def __init__(self, *results: np.ndarray) -> None:
        super().__init__()
        self.anywhere = nn.Parameter(torch.zeros(1))
        self.results = tuple(torch.from_numpy(each)[None] for each in results)

    def forward(self, images: torch.Tensor) -> Any:
        assert self.results[0].shape[-2:] == (images.shape[-2] // 8, images.shape[-1] // 8)
        return self.results if len(self.results) > 1 else self.results[0]


def cells_of(size: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """The size of the maps, and what of the network's input shows the picture."""
    scale = 184 / size[0]
    used = int(size[0] * scale), int(size[1] * scale)
    return (-(-used[0] // 8), -(-used[1] // 8)), used


@OLD
@pytest.mark.parametrize(("crowd", "size"), SIZES)
def test_the_same_people_are_found_as_by_controlnet_aux(crowd: str, size: tuple[int, int], networks: Any) -> None:
    networks.needs(*COMPARED)
    cells, used = cells_of(size)
    heat, fields = paint(CROWDS[crowd], cells)
    body = around(bodies(), Painted(fields, heat))
    found = body.format_body_result(*body(np.zeros((*size, 3), np.uint8)))
    theirs = [[point and (point.x, point.y, point.score) for point in each.keypoints] for each in found]
    ours = find_people(heat, fields, size, used)
    assert [[point and point[:2] for point in each] for each in ours] == [
        [point and point[:2] for point in each] for each in theirs
    ]
    scores = [[point[2] for point in each if point] for people in (ours, theirs) for each in people]
    assert np.allclose(np.concatenate([*scores[: len(ours)], [0]]), np.concatenate([*scores[len(ours) :], [0]]), 1e-4)


def test_people_are_found_where_they_are() -> None:
    """Points that were painted come back, in pixels of the picture; what was left out stays out."""
    size = 736, 736
    cells, used = cells_of(size)
    heat, fields = paint(CROWDS["parts"], cells)
    (found,) = find_people(heat, fields, size, used)
    for point, painted in zip(found, CROWDS["parts"][0], strict=True):
        assert (point is None) == (painted is None)
        if point is not None and painted is not None:
            assert abs(point.x - (painted[0] + 0.5) * 32) < 12
            assert abs(point.y - (painted[1] + 0.5) * 32) < 12


@pytest.mark.parametrize("crowd", ["three", "tiny"])
def test_everybody_is_found(crowd: str) -> None:
    heat, fields = paint(CROWDS[crowd], (23, 35))
    assert len(find_people(heat, fields, (512, 768), (184, 276))) == len(CROWDS[crowd])


def body_of(**points: tuple[float, float]) -> tuple[Point | None, ...]:
    names = ("nose", "neck", "r_shoulder", "r_elbow", "r_wrist", "l_shoulder", "l_elbow", "l_wrist")
    names += ("r_hip", "r_knee", "r_ankle", "l_hip", "l_knee", "l_ankle", "r_eye", "l_eye", "r_ear", "l_ear")
    return tuple(Point(*points[name]) if name in points else None for name in names)


def test_hands_lie_beyond_the_wrist() -> None:
    """Forearm of 100 pixels, upper arm of 50: a square of 150 around a third of a forearm beyond the wrist."""
    body = body_of(l_shoulder=(200, 150), l_elbow=(200, 200), l_wrist=(300, 200))
    assert hand_boxes(body, 1000, 1000) == [Box(258, 125, 150), None]
    assert hand_boxes(body, 350, 1000) == [Box(258, 125, 92), None]
    assert hand_boxes(body_of(l_elbow=(200, 200), l_wrist=(300, 200)), 1000, 1000) == [None, None]
    near = body_of(r_shoulder=(10, 10), r_elbow=(10, 15), r_wrist=(10, 20))
    assert hand_boxes(near, 1000, 1000) == [None, None]


def test_faces_lie_around_the_nose() -> None:
    body = body_of(nose=(200, 150), r_eye=(190, 140), l_ear=(230, 145))
    assert face_box(body, 1000, 1000) == Box(155, 105, 90)
    assert face_box(body_of(nose=(200, 150)), 1000, 1000) is None
    assert face_box(body_of(r_eye=(200, 150)), 1000, 1000) is None
    assert face_box(body_of(nose=(200, 150), r_eye=(197, 150)), 1000, 1000) is None


def blob(size: int, x: float, y: float, level: float = 0.8, width: float = 3.0) -> np.ndarray:
    rows, columns = np.mgrid[:size, :size]
    return level * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * width**2))


def test_a_hand_is_read_from_the_largest_region() -> None:
    maps = np.zeros((22, 128, 128))
    maps[0] = blob(128, 40, 60) + blob(128, 100, 100, level=0.9, width=1.2)
    maps[21] = 1
    points = read_hand(maps, Box(1000, 2000, 256))
    assert len(points) == 21
    assert points[0] is not None
    assert points[0][:2] == (1080, 2120)
    assert points[1:] == (None,) * 20


def test_a_face_keeps_its_order_and_leaves_the_background_out() -> None:
    """controlnet-aux moves all later points up when one is not seen, and draws the peak of the background."""
    maps = np.zeros((71, 50, 50), np.float32)
    maps[3] = blob(50, 10, 20)
    maps[70] = blob(50, 30, 30)
    points = read_face(maps, Box(100, 200, 50))
    assert len(points) == 70
    assert [number for number, point in enumerate(points) if point] == [3]
    assert points[3] is not None
    assert points[3][:2] == (110, 220)


def test_poses_are_drawn_at_the_hints_size() -> None:
    """What `poses` says is what a call draws; a body alone draws no hands, a face alone no limbs."""
    pose = Poses(width=64, height=96, people=(Person(body=body_of(nose=(30, 20), neck=(30, 50))),))
    image = np.zeros((96, 64, 3), np.uint8)
    for name, parts in (
        ("openpose", {"hands": False, "face": False}),
        ("openpose_full", {}),
        ("openpose_faceonly", {"body": False, "hands": False}),
    ):
        assert np.array_equal(find(name).draw(pose), draw(pose, **parts))
    assert find("openpose").draw(pose, thick=1).shape == image.shape
    assert find("openpose_hand").draw(pose).any()  # controlnet-aux leaves the body out
    assert not find("openpose_faceonly").draw(pose).any()
    with pytest.raises(PreprocessorError, match="finds no poses"):
        find("canny").poses(image)
    with pytest.raises(PreprocessorError, match="draws no poses"):
        find("canny").draw(pose)


def test_what_is_found_is_what_is_drawn(networks: Any, tmp_path: Path) -> None:
    """Through JSON and back, at the size that was asked for."""
    small = Network(id="small", files=(), load=lambda: Coarse(38, 19))
    preprocessor = replace(find("openpose"), networks=(small,))
    images = np.stack([cv2.resize(each, (130, 96)) for each in (data.astronaut(), data.coffee())])
    ready = networks.runtime(tmp_path)
    found = preprocessor.poses(images, resolution=192, runtime=ready)
    hints = preprocessor(images, resolution=192, runtime=ready)
    assert hints.shape == (2, 192, 260, 3)
    assert any(pose.people for pose in found)
    for pose, hint in zip(found, hints, strict=True):
        assert (pose.height, pose.width) == (192, 260)
        assert np.array_equal(preprocessor.draw(from_json(to_json(pose))), hint)


class Coarse(nn.Module):
    """A small network with the shapes of a real one: maps at an eighth of its input; `wrap` is how it returns them."""

    def __init__(self, *maps: int, wrap: Any = tuple) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.parts = nn.ModuleList(nn.Conv2d(3, count, 8, stride=8) for count in maps)
        self.wrap = wrap
        for part in self.parts:
            part.weight.data.normal_(0, 0.05)

    def forward(self, images: torch.Tensor) -> Any:
        return self.wrap(part(images) for part in self.parts)


def around(kind: type, network: nn.Module) -> Any:
    """A detector of controlnet-aux with a network that no file brought."""
    detector = kind.__new__(kind)
    detector.model = network
    return detector


@OLD
@pytest.mark.parametrize("size", [(96, 130), (200, 101)])
def test_pictures_reach_the_network_as_in_controlnet_aux(size: tuple[int, int], networks: Any) -> None:
    networks.needs(*COMPARED)
    network = Coarse(38, 19)
    image = cv2.resize(data.astronaut(), size[::-1], interpolation=cv2.INTER_AREA)
    detector = around(bodies(), network)
    found = detector.format_body_result(*detector(np.ascontiguousarray(image[..., ::-1])))
    (ours,) = openpose.find_poses(image[None], network)
    assert (ours.height, ours.width) == size
    assert len(ours.people) > 1
    assert [[point and (point.x, point.y) for point in each.body] for each in ours.people] == [
        [point and (point.x, point.y) for point in each.keypoints] for each in found
    ]


@OLD
@pytest.mark.parametrize("side", [64, 150])
def test_hands_are_read_as_in_controlnet_aux(side: int, networks: Any) -> None:
    networks.needs(*COMPARED)
    image = blue_first()
    network = Coarse(22, wrap=next)
    ((_, hand),) = openpose._hands(image, [None, Box(20, 30, side)], network)
    crop = image[30 : 30 + side, 20 : 20 + side]
    for point, (x, y) in zip(hand, around(peer("open_pose.hand").Hand, network)(crop), strict=True):
        assert (x, y) == (0, 0) if point is None else (20 + x, 30 + y) == point[:2]
    assert len({point for point in hand if point}) > 5


@OLD
@pytest.mark.parametrize("side", [64, 150])
def test_faces_are_read_as_in_controlnet_aux(side: int, networks: Any) -> None:
    networks.needs(*COMPARED, "torchvision")
    image = blue_first()
    network = Coarse(71, wrap=list)
    ((_, face),) = openpose._faces(image, [Box(20, 30, side)], network)
    detector = around(peer("open_pose.face").Face, network)
    peaks = detector.compute_peaks_from_heatmaps(detector(image[30 : 30 + side, 20 : 20 + side])[:70])
    assert [point[:2] for point in face if point] == [(20 + x, 30 + y) for x, y in peaks]
    assert len(peaks) > 40


def blue_first() -> np.ndarray:
    return np.ascontiguousarray(cv2.resize(data.astronaut(), (256, 256), interpolation=cv2.INTER_AREA)[..., ::-1])


@OLD
@pytest.mark.parametrize("name", ["openpose", "openpose_hand", "openpose_face"])
def test_files_in_their_real_layout_are_loaded(name: str, networks: Any, tmp_path: Path) -> None:
    """Random weights at true shapes; files of bodies and hands leave a part of each key out."""
    network = find(name).networks[-1]
    networks.needs(*COMPARED, *network.packages)
    source, kind = {
        "openpose": ("open_pose.model", "bodypose_model"),
        "openpose_hand": ("open_pose.model", "handpose_model"),
        "openpose_face": ("open_pose.face", "FaceNet"),
    }[name]
    whole = getattr(peer(source), kind)()
    torch.manual_seed(0)
    for tensor in whole.state_dict().values():
        tensor.normal_(0, (2 / tensor[0].numel()) ** 0.5 if tensor.dim() > 1 else 0.05)
    keys = {key: key if kind == "FaceNet" else key.partition(".")[2] for key in whole.state_dict()}
    path = tmp_path / network.files[0].name
    torch.save({keys[key]: value for key, value in whole.state_dict().items()}, path)
    loaded = network.load(path)
    assert isinstance(loaded, nn.Module)
    picture = torch.rand(1, 3, 32, 40) - 0.5
    with torch.inference_mode():
        results = zip(loaded(picture), whole(picture), strict=True)
        assert all(torch.equal(mine, theirs) and mine.std() > 0 for mine, theirs in results)


def test_a_batch_gives_what_single_pictures_give() -> None:
    images = np.stack([cv2.resize(each, (160, 120)) for each in (data.astronaut(), data.coffee(), data.chelsea())])
    network = Coarse(38, 19)
    together = openpose.find_poses(images, network)
    for image, pose in zip(images, together, strict=True):
        (alone,) = openpose.find_poses(image[None], network)
        assert [tuple(point and point[:2] for point in each.body) for each in alone.people] == [
            tuple(point and point[:2] for point in each.body) for each in pose.people
        ]
    assert together[0] != together[1]
