"""Faces: formulas against scikit-image and loops, and tiny ONNX files that see what is painted for them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from controlstack.core.embedding import Embedding, Encoder, Values
from controlstack.core.errors import DamagedModelError, PreprocessorError
from controlstack.preprocessors import Preprocessor, encoding, find
from controlstack.preprocessors.encoders.insightface import (
    PLACES,
    Face,
    aligned,
    find_faces,
    largest_face,
    read_faces,
    recognise,
    similarity,
)
from controlstack.preprocessors.networks.onnx_files import load_onnx
from controlstack.preprocessors.networks.store import Store
from skimage.transform import SimilarityTransform

onnx = pytest.importorskip("onnx", reason="needs onnx, to write small networks", exc_type=ImportError)
pytest.importorskip("onnxruntime", reason="needs onnxruntime")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402  (after the question whether it is there)

SIDE = 640
STRIDES, ANCHORS = (8, 16, 32), 2
CELLS = {stride: (SIDE // stride) ** 2 * ANCHORS for stride in STRIDES}
Box = tuple[float, float, float, float]


def save(path: Path, nodes: list[Any], constants: dict[str, np.ndarray], shape: list[Any], outputs: dict) -> None:
    graph = helper.make_graph(
        nodes,
        "painted",
        [helper.make_tensor_value_info("picture", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, each) for name, each in outputs.items()],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)


def encoded(found: list[tuple[Box, np.ndarray, float]], stride: int = 16) -> list[np.ndarray]:
    """The nine arrays that mean boxes, points [5, 2] and scores; one anchor of the cell at (8, 8) strides for each."""
    scores = [np.zeros((CELLS[each], 1), np.float32) for each in STRIDES]
    sides = [np.zeros((CELLS[each], 4), np.float32) for each in STRIDES]
    points = [np.zeros((CELLS[each], 10), np.float32) for each in STRIDES]
    level = STRIDES.index(stride)
    for number, (box, places, score) in enumerate(found):
        column, row = 8 + 3 * number, 8
        cell = (row * (SIDE // stride) + column) * ANCHORS + 1
        middle = np.array([column, row]) * stride
        scores[level][cell] = score
        sides[level][cell] = np.concatenate([middle - box[:2], box[2:] - middle]) / stride
        points[level][cell] = (places - middle).ravel() / stride
    return [*scores, *sides, *points]


def save_detector(path: Path, arrays: list[np.ndarray]) -> None:
    """It finds them if the first channel shows anything: red, since that comes first."""
    nodes = [
        helper.make_node("Slice", ["picture", "zero", "one", "axis"], ["channel"]),
        helper.make_node("ReduceMax", ["channel"], ["brightest"], keepdims=0),
        helper.make_node("Clip", ["brightest", "none", "all"], ["level"]),
        *(helper.make_node("Mul", [f"array{i}", "level"], [f"found{i}"]) for i in range(9)),
    ]
    constants = {"zero": np.array([0]), "one": np.array([1]), "axis": np.array([1]), "none": np.array(0, np.float32),
                 "all": np.array(1, np.float32)}  # fmt: skip
    # Black is -127.5 / 128, and white nearly 1: the scores of what is painted stay.
    constants |= {f"array{i}": each / np.float32(127.5 / 128) for i, each in enumerate(arrays)}
    outputs = {f"found{i}": list(each.shape) for i, each in enumerate(arrays)}
    save(path, nodes, constants, [1, 3, "height", "width"], outputs)


def save_recogniser(path: Path, numbers: int = 512) -> None:
    """Its numbers are those of the aligned face, each channel squeezed to one, times a table."""
    table = np.random.default_rng(0).normal(0, 1, (3, numbers)).astype(np.float32)
    nodes = [
        helper.make_node("ReduceMean", ["picture"], ["colour"], axes=[2, 3], keepdims=0),
        helper.make_node("MatMul", ["colour", "table"], ["numbers"]),
    ]
    save(path, nodes, {"table": table}, ["batch", 3, 112, 112], {"numbers": ["batch", numbers]})


def points_at(left: float, top: float, scale: float) -> np.ndarray:
    """Five points where an upright face of `scale` times 112 pixels has them."""
    return np.array(PLACES) * scale + np.array([left, top])


def two() -> list[np.ndarray]:
    small, large = points_at(40, 50, 0.5), points_at(120, 90, 2.0)
    return encoded([((40, 50, 96, 106), small, 0.9), ((120, 90, 344, 314), large, 0.7)])


def scene() -> np.ndarray:
    """A picture of 640 x 640 pixels in which the large face is redder than the small one."""
    image = np.full((SIDE, SIDE, 3), 30, np.uint8)
    image[:, :110] = (255, 90, 10)
    image[:, 110:] = (250, 10, 200)
    return image


def installed(name: str, folder: Path, arrays: list[np.ndarray]) -> Preprocessor:
    preprocessor = find(name)
    ready = tuple(
        replace(each, files=tuple(replace(file, bytes=None, sha256="") for file in each.files))
        for each in preprocessor.networks
    )
    save_detector(folder / ready[0].files[0].name, arrays)
    if len(ready) > 1:
        save_recogniser(folder / ready[1].files[0].name)
    return replace(preprocessor, networks=ready)


def test_the_alignment_is_scikit_images() -> None:
    rng = np.random.default_rng(1)
    for _ in range(20):
        source, target = rng.normal(0, 50, (5, 2)), rng.normal(0, 50, (5, 2))
        theirs = SimilarityTransform.from_estimate(source, target)
        assert np.allclose(similarity(source, target), theirs.params[:2], atol=1e-9)


def test_an_aligned_face_has_its_points_in_place() -> None:
    image = np.zeros((200, 300, 3), np.uint8)
    places = np.array([(150, 60), (190, 70), (165, 95), (140, 110), (180, 120)], float)
    matrix = similarity(places, np.array(PLACES))
    x, y = (int(each) for each in places[0])
    image[y - 1 : y + 2, x - 1 : x + 2] = 255
    crop = aligned(image, Face(np.zeros(4), places))
    found = np.argwhere(crop[..., 0] > 100).mean(axis=0)[::-1]
    assert crop.shape == (112, 112, 3)
    assert np.allclose(found, matrix @ [x, y, 1], atol=1)
    assert aligned(image, Face(np.zeros(4), places), 224).shape == (224, 224, 3)


def test_faces_against_loops() -> None:
    """SCRFD: sides and points are distances in strides from the cell's corner, two anchors for each cell."""
    rng = np.random.default_rng(0)
    counts = [(64 // stride) ** 2 * ANCHORS for stride in STRIDES]
    arrays = [rng.uniform(0, 1, (count, width)).astype(np.float32) for width in (1, 4, 10) for count in counts]
    boxes, points, scores = read_faces(arrays, (64, 64))
    expected = []
    for level, stride in enumerate(STRIDES):
        for cell in range(counts[level]):
            score, sides, places = (arrays[level + 3 * kind][cell] for kind in range(3))
            if score[0] < 0.5:
                continue
            row, column = divmod(cell // ANCHORS, 64 // stride)
            x, y = column * stride, row * stride
            box = x - sides[0] * stride, y - sides[1] * stride, x + sides[2] * stride, y + sides[3] * stride
            expected.append((*box, *(places * stride + np.tile([x, y], 5)), score[0]))
    assert len(expected) > 20
    assert np.allclose(np.column_stack([boxes, points.reshape(-1, 10), scores]), expected, atol=1e-4)


def test_faces_are_found_in_pictures_of_any_size(tmp_path: Path) -> None:
    save_detector(tmp_path / "net.onnx", two())
    network = load_onnx(tmp_path / "net.onnx")
    assert (network.size, network.outputs) == ((0, 0), 9)
    wide = np.full((320, 1280, 3), 255, np.uint8)  # shown to the network at half the size
    found = find_faces(wide, network)
    assert [round(face.area) for face in found] == [112 * 112, 448 * 448]
    assert np.allclose(found[1].points, points_at(240, 180, 4.0), atol=1e-2)
    assert largest_face(wide, network, "any") is not None
    assert np.allclose(largest_face(wide, network, "any").box, [240, 180, 688, 628], atol=1e-2)


@pytest.mark.parametrize("name", ["face_id", "face_id_raw", "instant_id_face_embedding"])
def test_the_largest_face_is_recognised(name: str, tmp_path: Path, networks: Any) -> None:
    preprocessor = installed(name, tmp_path, two())
    seen = preprocessor(scene(), runtime=networks.runtime(tmp_path))
    recogniser = load_onnx(tmp_path / preprocessor.networks[1].files[0].name)
    crop = aligned(scene(), Face(np.zeros(4), points_at(120, 90, 2.0)))
    colour = ((crop.astype(np.float64) - 127.5) / 127.5).mean(axis=(0, 1))
    numbers = colour @ np.random.default_rng(0).normal(0, 1, (3, 512)).astype(np.float32)
    wanted = numbers / np.linalg.norm(numbers) if name == "face_id" else numbers
    assert seen.shape == (1, 512) and seen.dtype == np.float32
    assert np.allclose(seen[0], wanted, atol=1e-4)
    small = recognise(scene(), Face(np.zeros(4), points_at(40, 50, 0.5)), recogniser)
    assert not np.allclose(small, numbers, atol=0.1)
    batch = preprocessor(np.stack([scene(), scene()[:, ::-1]]), runtime=networks.runtime(tmp_path))
    assert batch.shape == (2, 1, 512) and np.allclose(batch[0], seen)


@pytest.mark.parametrize(
    "name", ["ip-adapter_face_id", "instant_id_face_embedding", "instant_id_face_keypoints"],
)  # fmt: skip
def test_a_picture_without_a_face_is_one_sentence(name: str, tmp_path: Path, networks: Any) -> None:
    preprocessor = installed(name, tmp_path, encoded([]))
    with pytest.raises(
        PreprocessorError, match=r"^\S+: no face is found in the picture of 300x200: choose .*$"
    ) as caught:
        preprocessor(np.zeros((200, 300, 3), np.uint8), runtime=networks.runtime(tmp_path))
    assert preprocessor.id in str(caught.value) and "\n" not in str(caught.value)


def test_five_points_are_drawn_as_instant_id_draws_them(tmp_path: Path, networks: Any) -> None:
    preprocessor = installed("instant_id_face_keypoints", tmp_path, two())
    drawn = preprocessor(scene(), runtime=networks.runtime(tmp_path))
    points = points_at(120, 90, 2.0)
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255)]
    for (x, y), colour in zip(points, colours, strict=True):
        assert tuple(drawn[int(y), int(x)]) == colour
        assert tuple(drawn[int(y) + 9, int(x)]) == colour
    between = (points[0] + points[2]) / 2  # a line from the left eye to the nose, dimmed
    assert tuple(drawn[int(between[1]), int(between[0])]) == (153, 0, 0)
    assert drawn.shape == (SIDE, SIDE, 3) and 0.005 < drawn.any(axis=-1).mean() < 0.05


def test_another_network_is_named(tmp_path: Path, networks: Any) -> None:
    preprocessor = installed("face_id", tmp_path, two())
    save_recogniser(tmp_path / preprocessor.networks[1].files[0].name, numbers=128)
    with pytest.raises(DamagedModelError, match="gives 128 numbers, expected 512"):
        preprocessor(scene(), runtime=networks.runtime(tmp_path))


def test_they_are_greyed_out_with_reason_and_licence(tmp_path: Path, networks: Any) -> None:
    from controlstack.units.offer import offer_of

    for name in ("ip-adapter_face_id", "ip-adapter_face_id_plus", "instant_id_face_embedding"):
        offer = offer_of(find(name), Store(tmp_path))
        assert "det_10g.onnx" in offer.lacks and "Licence: InsightFace: for non-commercial research" in offer.lacks
        assert "InsightFace: for non-commercial research purposes only" in offer.licences


def test_faces_are_found_by_what_a_model_reads() -> None:
    assert encoding(Embedding(Encoder.BUFFALO, Values.FACE_STATES)) is find("ip-adapter_face_id_plus")
    assert encoding(Embedding(Encoder.ANTELOPE, Values.RAW_FACE)) is find("instant_id_face_embedding")
