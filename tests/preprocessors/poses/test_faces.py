"""The face mesh: with mediapipe's own networks where they are, against the peer's drawing; and ours by itself."""

from __future__ import annotations

import importlib.util
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from controlstack.core.errors import DamagedModelError
from controlstack.preprocessors import find
from controlstack.preprocessors.networks.pool import PlainManager, Pool
from controlstack.preprocessors.networks.store import Store
from controlstack.preprocessors.perform import Runtime
from controlstack.preprocessors.poses.faces import LINES, draw_faces
from skimage import data

HERE = importlib.util.find_spec("mediapipe") is not None
OLD = HERE and importlib.util.find_spec("mediapipe.modules") is not None
MEDIAPIPE = pytest.mark.skipif(not HERE, reason="needs mediapipe")
OWN = pytest.mark.skipif(not OLD, reason="needs mediapipe up to 0.10.21, which brings its networks")
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")


def runtime(folder: Path) -> Runtime:
    return Runtime(store=Store(folder), pool=Pool(PlainManager("cpu")))


def ring(middle: tuple[float, float], radius: float) -> np.ndarray:
    """478 points on a ring, in 0..1."""
    angles = np.arange(478) * 0.1
    return np.stack([middle[0] + radius * np.cos(angles), middle[1] + radius * np.sin(angles)], axis=1)


def drawn(*faces: np.ndarray, size: tuple[int, int] = (200, 300)) -> np.ndarray:
    return draw_faces(np.zeros((*size, 3), np.uint8), lambda *_: list(faces), 10, 0.5)


def test_every_line_and_pupil_has_its_colour() -> None:
    hint = drawn(ring((0.5, 0.5), 0.3))
    colours = {tuple(colour) for colour in hint.reshape(-1, 3).tolist()} - {(0, 0, 0)}
    assert colours <= {colour for colour, _ in LINES} | {(250, 200, 10), (10, 200, 250)}
    assert {(10, 180, 10), (250, 200, 10), (10, 200, 250)} <= colours


def test_small_faces_and_lines_beyond_the_border_are_left_out() -> None:
    assert not drawn(ring((0.5, 0.5), 31 / 200)).any()
    assert drawn(ring((0.5, 0.5), 33 / 200)).any()
    edge = drawn(ring((0.0, 0.5), 0.4))
    assert edge.any()
    assert not edge[:, -150:].any()


@OWN
def test_the_drawing_equals_the_peers(tmp_path: Path) -> None:
    """The recipe of CrucibleAI with mediapipe's own drawing: drawn with blue first, then turned around."""
    from mediapipe.python.solutions import drawing_utils, face_mesh

    specs: dict[Any, Any] = {}
    groups = [
        ("FACE_OVAL", (10, 200, 10)), ("LEFT_EYE", (180, 200, 10)), ("LEFT_EYEBROW", (180, 220, 10)),
        ("RIGHT_EYE", (10, 200, 180)), ("RIGHT_EYEBROW", (10, 220, 180)), ("LIPS", (10, 180, 10)),
    ]  # fmt: skip
    for name, colour in groups:
        for edge in getattr(face_mesh, f"FACEMESH_{name}"):
            specs[edge] = drawing_utils.DrawingSpec(color=colour, thickness=2, circle_radius=1)
    image = data.astronaut()
    with face_mesh.FaceMesh(
        static_image_mode=True, max_num_faces=1, refine_landmarks=True, min_detection_confidence=0.5
    ) as mesh:
        (face,) = mesh.process(image).multi_face_landmarks
    expected = np.zeros_like(image)
    drawing_utils.draw_landmarks(expected, face, specs.keys(), None, specs)
    for number, colour in ((468, (10, 200, 250)), (473, (250, 200, 10))):
        x, y = int(face.landmark[number].x * 512), int(face.landmark[number].y * 512)
        expected[y - 2 : y + 2, x - 2 : x + 2] = colour
    hint = find("mediapipe_face")(image, runtime=runtime(tmp_path), faces=1)
    assert hint.any()
    differ = (hint != expected[..., ::-1]).any(axis=2)
    assert differ.sum() <= 0.01 * hint.any(axis=2).sum()  # only where lines of two colours cross
    known = {frozenset(pair) for _, line in LINES for pair in itertools.pairwise(line)}
    assert known == {frozenset(edge) for edge in specs}


@OWN
def test_nobody_is_no_error_and_settings_count(tmp_path: Path) -> None:
    ready = runtime(tmp_path)
    preprocessor = find("mediapipe_face")
    assert preprocessor.missing(ready) == ""
    assert not preprocessor(data.coffee()[:200, :200], runtime=ready).any()
    assert not preprocessor(data.astronaut(), runtime=ready, confidence=1.0).any()
    assert preprocessor(data.astronaut(), resolution=400, runtime=ready, faces=3).any()
    assert ready.pool.names == ("face_mesh",)


@MEDIAPIPE
def test_a_bad_file_for_todays_interface_is_named(tmp_path: Path) -> None:
    from dataclasses import replace

    preprocessor = find("mediapipe_face")
    (network,) = preprocessor.networks
    preprocessor = replace(
        preprocessor, networks=(replace(network, files=(replace(network.files[0], bytes=None, sha256=""),)),)
    )
    (tmp_path / "face_landmarker.task").write_bytes(b"no network")
    with pytest.raises(DamagedModelError, match=r"face_landmarker.task"):
        preprocessor(data.astronaut(), runtime=runtime(tmp_path))
