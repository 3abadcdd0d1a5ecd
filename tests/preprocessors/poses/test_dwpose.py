"""Poses through onnxruntime: tiny ONNX files that see what is painted for them, and formulas written twice."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from controlstack.core.errors import DamagedModelError
from controlstack.preprocessors import Preprocessor, find
from controlstack.preprocessors.networks.onnx_files import load_onnx, onnx_network
from controlstack.preprocessors.networks.pool import PlainManager, Pool
from controlstack.preprocessors.networks.store import Store
from controlstack.preprocessors.perform import Runtime
from controlstack.preprocessors.poses.drawing import draw
from controlstack.preprocessors.poses.dwpose import Box, enlarged, find_boxes, person, read_boxes, read_points
from controlstack.preprocessors.poses.points import OF_COCO, Point, from_json, to_json

onnx = pytest.importorskip("onnx", reason="needs onnx, to write small networks", exc_type=ImportError)
pytest.importorskip("onnxruntime", reason="needs onnxruntime")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402  (after the question whether it is there)

SIDE = 64  # pixels of the detector's input
CELLS = [(stride, x, y) for stride in (8, 16, 32) for y in range(SIDE // stride) for x in range(SIDE // stride)]
POSE = 48, 36  # height and width of the pose network's input
CAT = 15


def save(path: Path, nodes: list, constants: dict[str, np.ndarray], shape: list, outputs: dict[str, list]) -> None:
    graph = helper.make_graph(
        nodes,
        "painted",
        [helper.make_tensor_value_info("picture", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, each) for name, each in outputs.items()],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)


def encoded(boxes: list[tuple[tuple[float, float, float, float], int, float]]) -> np.ndarray:
    """Raw numbers [1, cells, 85] that mean boxes (left, top, right, bottom), their classes and scores."""
    raw = np.zeros((1, len(CELLS), 85), np.float32)
    for number, (corners, kind, score) in enumerate(boxes):
        stride, x, y = CELLS[5 * number + 1]
        left, top, right, bottom = corners
        middle = ((left + right) / 2 / stride - x, (top + bottom) / 2 / stride - y)
        size = np.log((right - left) / stride), np.log((bottom - top) / stride)
        raw[0, 5 * number + 1, :5] = (*middle, *size, 0.9)
        raw[0, 5 * number + 1, 5 + kind] = score / 0.9
    return raw


def save_detector(path: Path, raw: np.ndarray) -> None:
    """It finds the boxes if the first channel shows something: blue, since that comes first."""
    nodes = [
        helper.make_node("Slice", ["picture", "zero", "one", "axis"], ["channel"]),
        helper.make_node("ReduceMax", ["channel"], ["brightest"], keepdims=0),
        helper.make_node("Div", ["brightest", "white"], ["level"]),
        helper.make_node("Mul", ["boxes", "level"], ["found"]),
    ]
    constants = {"zero": np.array([0]), "one": np.array([1]), "axis": np.array([1]), "boxes": raw,
                 "white": np.array(255, np.float32)}  # fmt: skip
    save(path, nodes, constants, [1, 3, SIDE, SIDE], {"found": [1, len(CELLS), 85]})


def save_pose(path: Path, points: int, batch: int | str = "batch", size: tuple[int, int] = POSE) -> None:
    """All points lie where the first channel is brightest: red, since that comes first."""
    height, width = size
    nodes = [
        helper.make_node("Slice", ["picture", "zero", "one", "axis"], ["channel"]),
        helper.make_node("ReduceMax", ["channel"], ["columns"], axes=[2], keepdims=1),
        helper.make_node("ReduceMax", ["channel"], ["rows"], axes=[3], keepdims=1),
        helper.make_node("Resize", ["columns", "", "wider"], ["across4"], mode="nearest"),
        helper.make_node("Resize", ["rows", "", "higher"], ["down4"], mode="nearest"),
        helper.make_node("Tile", ["across4", "times"], ["across_all"]),
        helper.make_node("Tile", ["down4", "times"], ["down_all"]),
        helper.make_node("Reshape", ["across_all", "across_shape"], ["across"]),
        helper.make_node("Reshape", ["down_all", "down_shape"], ["down"]),
    ]
    constants = {
        "zero": np.array([0]), "one": np.array([1]), "axis": np.array([1]), "times": np.array([1, points, 1, 1]),
        "wider": np.array([1, 1, 1, 2], np.float32), "higher": np.array([1, 1, 2, 1], np.float32),
        "across_shape": np.array([-1, points, 2 * width]), "down_shape": np.array([-1, points, 2 * height]),
    }  # fmt: skip
    outputs = {"across": [batch, points, 2 * width], "down": [batch, points, 2 * height]}
    save(path, nodes, constants, [batch, 3, *size], outputs)


def prepared(name: str, folder: Path, raw: np.ndarray, points: int, batch: int | str = "batch") -> Preprocessor:
    preprocessor = find(name)
    networks = tuple(
        replace(each, files=tuple(replace(file, bytes=None, sha256="") for file in each.files))
        for each in preprocessor.networks
    )
    save_detector(folder / networks[0].files[0].name, raw)
    save_pose(folder / networks[1].files[0].name, points, batch)
    return replace(preprocessor, networks=networks)


def runtime(folder: Path) -> Runtime:
    return Runtime(store=Store(folder), pool=Pool(PlainManager("cpu")))


def scene() -> np.ndarray:
    """96 x 128 pixels, with a red dot in each half, and blue in a corner."""
    image = np.zeros((96, 128, 3), np.uint8)
    image[40:43, 30:33, 0] = 255
    image[60:63, 100:103, 0] = 255
    image[-4:, -4:, 2] = 255
    return image


TWO = encoded(
    [((5, 10, 27, 38), 0, 0.8), ((6, 10, 27, 38), 0, 0.6), ((38, 20, 60, 44), 0, 0.7), ((0, 0, 60, 44), 0, 0.2)]
)


@pytest.mark.parametrize("batch", ["batch", 1])
def test_people_are_found_where_they_are(tmp_path: Path, batch: int | str) -> None:
    """The scale is 64 / 128, so boxes are doubled; the second box is the first again, the fourth is too faint."""
    preprocessor = prepared("dw_openpose_full", tmp_path, TWO, 133, batch)
    (poses,) = preprocessor.poses(scene(), runtime=runtime(tmp_path))
    assert (poses.width, poses.height) == (128, 96)
    assert len(poses.people) == 2
    for found, (x, y) in zip(poses.people, [(31, 41), (101, 61)], strict=True):
        assert [len(part) for part in (found.body, found.left_hand, found.right_hand, found.face)] == [18, 21, 21, 70]
        for point in (*found.body, *found.left_hand, *found.right_hand, *found.face):
            assert point is not None
            assert abs(point.x - x) < 2.5
            assert abs(point.y - y) < 2.5
    assert from_json(to_json(poses)).people[0].body[0] == poses.people[0].body[0]
    hint = preprocessor(scene(), runtime=runtime(tmp_path))
    assert np.array_equal(hint, draw(poses))
    assert hint.any()


def test_poses_are_drawn_at_the_hints_size(tmp_path: Path) -> None:
    preprocessor = prepared("dw_openpose_full", tmp_path, TWO, 133)
    (poses,) = preprocessor.poses(scene(), resolution=192, runtime=runtime(tmp_path))
    assert (poses.width, poses.height) == (256, 192)
    hint = preprocessor(scene(), resolution=192, runtime=runtime(tmp_path))
    assert np.array_equal(hint, draw(poses))
    batch = preprocessor(np.stack([scene(), np.zeros_like(scene())]), runtime=runtime(tmp_path))
    assert batch[0].any()
    assert not batch[1].any()  # nobody is there, and that is no error


def test_halpes_points_are_bodies(tmp_path: Path) -> None:
    preprocessor = prepared("rtmpose", tmp_path, TWO, 26)
    (poses,) = preprocessor.poses(scene(), runtime=runtime(tmp_path))
    assert len(poses.people) == 2
    for found, (x, y) in zip(poses.people, [(31, 41), (101, 61)], strict=True):
        assert [len(part) for part in (found.body, found.left_hand, found.right_hand, found.face)] == [18, 0, 0, 0]
        assert all(point is not None and abs(point.x - x) < 2.5 and abs(point.y - y) < 2.5 for point in found.body)
    assert preprocessor(scene(), runtime=runtime(tmp_path)).any()


def test_animals_are_other_classes(tmp_path: Path) -> None:
    boxes = [((5, 10, 27, 38), CAT, 0.8), ((38, 20, 60, 44), 0, 0.7)]
    preprocessor = prepared("animal_openpose", tmp_path, encoded(boxes), 17)
    (poses,) = preprocessor.poses(scene(), runtime=runtime(tmp_path))
    assert poses.people == ()
    assert [len(animal) for animal in poses.animals] == [17]
    assert preprocessor(scene(), runtime=runtime(tmp_path)).shape == (96, 128, 3)


def test_the_detector_sees_blue_first(tmp_path: Path) -> None:
    save_detector(tmp_path / "net.onnx", TWO)
    network = load_onnx(tmp_path / "net.onnx")
    red, blue = np.zeros((64, 64, 3), np.uint8), np.zeros((64, 64, 3), np.uint8)
    red[..., 0] = blue[..., 2] = 255
    assert find_boxes(red, network, (0,)).shape == (0, 4)
    assert np.allclose(find_boxes(blue, network, (0,)), [[5, 10, 27, 38], [38, 20, 60, 44]], atol=1e-4)
    assert (network.provider, network.size) == ("CPUExecutionProvider", (64, 64))


def test_boxes_against_loops() -> None:
    """YOLOX: middle = (number + cell) * stride, size = e ** number * stride, score = object * class."""
    raw = np.random.default_rng(0).normal(0, 1, (len(CELLS), 85)).astype(np.float32)
    raw[:, 4:] = np.abs(raw[:, 4:]) / 2
    corners, scores = read_boxes(raw, (SIDE, SIDE), (0, 7))
    expected = []
    for row, (stride, x, y) in zip(raw, CELLS, strict=True):
        score = row[4] * max(row[5], row[12])
        if score > 0.3:
            middle_x, middle_y = (row[0] + x) * stride, (row[1] + y) * stride
            width, height = np.exp(row[2]) * stride, np.exp(row[3]) * stride
            edges = middle_x - width / 2, middle_y - height / 2, middle_x + width / 2, middle_y + height / 2
            expected.append((*edges, score))
    assert len(expected) > 3
    assert np.allclose(np.column_stack([corners, scores]), expected, rtol=1e-5)


def test_overlapping_boxes_against_loops(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    boxes = []
    for score in rng.uniform(0.35, 0.95, 16):
        left, top = rng.uniform(0, 30, 2)
        width, height = rng.uniform(10, 30, 2)
        boxes.append(((left, top, left + width, top + height), 0, score))
    save_detector(tmp_path / "net.onnx", encoded(boxes))
    kept: list[tuple[float, float, float, float]] = []
    for one, _, _ in sorted(boxes, key=lambda box: -box[2]):
        for other in kept:
            width = min(one[2], other[2]) - max(one[0], other[0])
            height = min(one[3], other[3]) - max(one[1], other[1])
            common = max(0, width) * max(0, height)
            area = sum((each[2] - each[0]) * (each[3] - each[1]) for each in (one, other))
            if common / (area - common) > 0.45:
                break
        else:
            kept.append(one)
    assert 1 < len(kept) < 16
    found = find_boxes(np.full((64, 64, 3), 255, np.uint8), load_onnx(tmp_path / "net.onnx"), (0,))
    assert np.allclose(found, kept, atol=1e-3)


def test_boxes_get_room_and_the_networks_proportions() -> None:
    assert enlarged(np.array([10, 20, 50, 60]), (384, 288)) == Box(30, 40, 50, 50 / 0.75)
    assert enlarged(np.array([10, 20, 20, 100]), (384, 288)) == Box(15, 60, 75, 100)


def test_points_are_where_bins_say() -> None:
    across, down = np.zeros((2, 72)), np.zeros((2, 96))
    across[0, 36], down[0, 24] = 0.9, 0.7
    across[1, 10], down[1, 95] = 0.1, 0.8
    places, scores = read_points(across, down, Box(100, 200, 72, 96), POSE)
    assert np.allclose(places[0], [100 - 36 + 18 * 2, 200 - 48 + 12 * 2])
    assert np.allclose(places[1], [100 - 36 + 5 * 2, 200 - 48 + 47.5 * 2])
    assert scores.tolist() == [0.7, 0.1]


def test_points_of_coco_become_openposes() -> None:
    """Names of both lists, as their authors give them."""
    coco = [
        "nose",
        "l_eye",
        "r_eye",
        "l_ear",
        "r_ear",
        "l_shoulder",
        "r_shoulder",
        "l_elbow",
        "r_elbow",
        "l_wrist",
        "r_wrist",
        "l_hip",
        "r_hip",
        "l_knee",
        "r_knee",
        "l_ankle",
        "r_ankle",
    ]
    openpose = [
        "nose",
        "neck",
        "r_shoulder",
        "r_elbow",
        "r_wrist",
        "l_shoulder",
        "l_elbow",
        "l_wrist",
        "r_hip",
        "r_knee",
        "r_ankle",
        "l_hip",
        "l_knee",
        "l_ankle",
        "r_eye",
        "l_eye",
        "r_ear",
        "l_ear",
    ]
    assert ["neck" if number is None else coco[number] for number in OF_COCO] == openpose
    places = np.stack([np.arange(133.0), np.arange(133.0) * 2], axis=1)
    scores = np.ones(133)
    found = person(places, scores)
    assert found.body[1] == Point(5.5, 11, 1)
    assert found.left_hand[0] == Point(91, 182, 1)
    assert found.right_hand[20] == Point(132, 264, 1)
    assert found.face[:68] == tuple(Point(k, 2 * k, 1) for k in range(23, 91))
    assert found.face[68:] == (Point(2, 4, 1), Point(1, 2, 1))  # right and left eye
    scores[6] = 0.29
    assert person(places, scores).body[1:3] == (None, None)


def test_bad_files_are_named(tmp_path: Path) -> None:
    preprocessor = prepared("dw_openpose_full", tmp_path, TWO, 133)
    path = tmp_path / preprocessor.networks[1].files[0].name
    content = path.read_bytes()
    for bad in (b"", b"<html>", content[: len(content) // 2]):
        path.write_bytes(bad)
        with pytest.raises(DamagedModelError, match=r"dw-ll_ucoco_384.onnx"):
            preprocessor(scene(), runtime=runtime(tmp_path))
    save_detector(path, TWO)
    with pytest.raises(DamagedModelError, match="gives 1 arrays, expected 2"):
        preprocessor(scene(), runtime=runtime(tmp_path))


def test_networks_are_loaded_once(tmp_path: Path) -> None:
    preprocessor = prepared("dw_openpose_full", tmp_path, TWO, 133)
    ready = runtime(tmp_path)
    preprocessor(scene(), runtime=ready)
    for each in tmp_path.rglob("*.onnx"):
        assert each.stat().st_size < ready.pool.bytes
    assert ready.pool.names == ("yolox_l", "dwpose")
    ready.pool.unload()
    assert ready.pool.names == ()
    assert onnx_network("n", preprocessor.networks[0].files[0], 1).packages == ("onnxruntime",)
