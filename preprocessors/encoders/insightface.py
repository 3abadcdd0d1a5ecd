"""Faces as InsightFace finds, aligns and recognises them, by its networks through onnxruntime and without its package.

Finding: SCRFD (Guo et al., "Sample and Computation Redistribution for Efficient Face Detection", ICLR 2022), whose file
gives for each of three strides the scores, boxes and five points (eyes, nose, corners of the mouth) of two anchors for
each cell. Recognising: ArcFace (Deng et al., "ArcFace: Additive Angular Margin Loss", CVPR 2019), 512 numbers of a face
that is aligned by its five points. The weights are for non-commercial research.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# numpy declares some of its methods incompletely; what they return is declared here instead.

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...core.errors import DamagedModelError, PreprocessorError
from ..boxes import best
from ..networks.network import Network, WeightFile
from ..networks.onnx_files import PACKAGE, OnnxNetwork, load_onnx
from ..networks.weights import HUB

if TYPE_CHECKING:
    import cv2
    import numpy as np
    from numpy.typing import NDArray

    from ..resize import Image

    Floats = NDArray[np.floating[Any]]
else:
    from ..lazy import cv2, np

SIDE = 640  # pixels at which faces are looked for: `FaceAnalysis.prepare`
STRIDES, ANCHORS = (8, 16, 32), 2
FOUND, OVERLAP = 0.5, 0.4  # a score that counts, and what share two boxes of one face have in common
MIDDLE, RANGE = 127.5, 128.0  # of the detector's input; the recogniser's is divided by its middle
POINTS = 5
CROP = 112  # pixels of an aligned face, at which ArcFace recognises it
NUMBERS = 512  # of a recognised face
PLACES = (  # of the five points in it, x and y
    (38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041),
)  # fmt: skip
LICENCE = "InsightFace: for non-commercial research purposes only"


@dataclass(frozen=True, slots=True, eq=False)
class Face:
    """One face: its box (left, top, right, bottom) and its five points [5, 2] in pixels."""

    box: Floats
    points: Floats

    @property
    def area(self) -> float:
        """Return the area of its box in pixels."""
        left, top, right, bottom = (float(each) for each in self.box)
        return (right - left) * (bottom - top)


def largest_face(image: Image, detector: OnnxNetwork, owner: str) -> Face:
    """Return the largest face of [H, W, 3]; PreprocessorError, in the name of `owner`, where none is found."""
    found = find_faces(image, detector)
    if not found:
        raise PreprocessorError(
            f"{owner}: no face is found in the picture of {image.shape[1]}x{image.shape[0]}: choose one that shows a "
            "face from the front, large and with some room around it"
        )
    return max(found, key=lambda face: face.area)


def find_faces(image: Image, detector: OnnxNetwork) -> list[Face]:
    """Return the faces of [H, W, 3], best first."""
    framed, scale = _framed(image, detector.size)
    boxes, points, scores = read_faces(detector(_blob(framed, RANGE)), framed.shape[:2])
    kept = best(boxes, scores, OVERLAP)
    return [Face(boxes[row] / scale, points[row] / scale) for row in kept]


def read_faces(arrays: list[Any], size: tuple[int, int]) -> tuple[Floats, Floats, Floats]:
    """Return boxes [N, 4], points [N, 5, 2] and scores [N] of what counts, from the nine arrays of a detector.

    Distances are in strides, from the middle of the anchor's cell.
    """
    boxes, points, scores = list[Any](), list[Any](), list[Any]()
    for level, stride in enumerate(STRIDES):
        rows, columns = np.mgrid[: size[0] // stride, : size[1] // stride]
        cells = np.stack([columns, rows], axis=-1).reshape(-1, 2).repeat(ANCHORS, axis=0) * stride
        score, sides, places = (np.reshape(arrays[level + 3 * kind], (len(cells), -1)) for kind in range(3))
        kept = score[:, 0] >= FOUND
        middle, sides = cells[kept], sides[kept] * stride
        boxes.append(np.concatenate([middle - sides[:, :2], middle + sides[:, 2:]], axis=1))
        points.append(middle[:, None] + places[kept].reshape(-1, POINTS, 2) * stride)
        scores.append(score[kept, 0])
    return np.concatenate(boxes), np.concatenate(points), np.concatenate(scores)


def aligned(image: Image, face: Face, side: int = CROP) -> Image:
    """Return the face of [H, W, 3] with its points where ArcFace expects them, [side, side, 3]; black beside it."""
    matrix = similarity(face.points, np.array(PLACES) * (side / CROP))
    return np.asarray(cv2.warpAffine(image, matrix, (side, side), borderValue=(0, 0, 0)), np.uint8)


def similarity(source: Floats, target: Floats) -> Floats:
    """Return turn, scale and shift [2, 3] that bring points [N, 2] nearest to others (Umeyama, PAMI 1991)."""
    middle, goal = source.mean(axis=0), target.mean(axis=0)
    spread, wanted = source - middle, target - goal
    left, strengths, right = np.linalg.svd(wanted.T @ spread / len(source))
    signs = np.array([1.0, np.sign(np.linalg.det(left) * np.linalg.det(right))])  # a turn, and no reflection
    turn = left @ np.diag(signs) @ right
    scale = (strengths @ signs) / spread.var(axis=0).sum()
    return np.column_stack([scale * turn, goal - scale * turn @ middle])


def recognise(image: Image, face: Face, recogniser: OnnxNetwork) -> Floats:
    """Return the 512 numbers of a face of [H, W, 3], of any length."""
    numbers = np.reshape(recogniser(_blob(aligned(image, face), MIDDLE))[0], -1)
    if len(numbers) != NUMBERS:
        raise DamagedModelError(
            f"the recognition of faces gives {len(numbers)} numbers, expected {NUMBERS}: get it again"
        )
    return numbers.astype(np.float32)


def _framed(image: Image, size: tuple[int, int]) -> tuple[Image, float]:
    """Return a picture in the upper left of a black one of the detector's size, and by how much it was scaled."""
    height, width = (side or SIDE for side in size)
    scale = min(height / image.shape[0], width / image.shape[1])
    used = max(1, int(image.shape[0] * scale)), max(1, int(image.shape[1] * scale))
    framed = np.zeros((height, width, 3), np.uint8)
    framed[: used[0], : used[1]] = cv2.resize(image, (used[1], used[0]), interpolation=cv2.INTER_LINEAR)
    return framed, used[0] / image.shape[0]


def _blob(image: Image, span: float) -> NDArray[np.float32]:
    """Return [H, W, 3] as networks read it, red first: [1, 3, H, W] around 0."""
    return np.ascontiguousarray(((image.astype(np.float32) - MIDDLE) / span).transpose(2, 0, 1)[None])


def _network(kind: str, file: WeightFile, outputs: int) -> Network:
    def load(path: Path) -> OnnxNetwork:
        network = load_onnx(path)
        if network.outputs != outputs:
            raise DamagedModelError(f"{path} gives {network.outputs} arrays, expected {outputs}: it is another network")
        return network

    return Network(id=kind, files=(file,), load=load, packages=(PACKAGE,))


def _file(name: str, size: int, sha256: str, addresses: tuple[str, ...], found_as: tuple[str, ...]) -> WeightFile:
    return WeightFile(
        name=f"insightface/{name}", addresses=addresses, licence=LICENCE, bytes=size, sha256=sha256, found_as=found_as
    )


# Both packs have the same detector. Other programs keep them in `insightface/models`, InsightFace in the home folder.
DETECTOR = _network(
    "scrfd_10g",
    _file(
        "det_10g.onnx", 16_923_827, "5838f7fe053675b1c7a08b633df49e7af5495cee0493c7dcf6697200b85b5b91",
        (f"{HUB}/public-data/insightface/resolve/main/models/buffalo_l/det_10g.onnx",
         f"{HUB}/DIAMONIK7777/antelopev2/resolve/main/scrfd_10g_bnkps.onnx"),
        ("models/buffalo_l/det_10g.onnx", "models/antelopev2/scrfd_10g_bnkps.onnx",
         "insightface/models/buffalo_l/det_10g.onnx", "insightface/models/antelopev2/scrfd_10g_bnkps.onnx"),
    ),
    outputs=9,
)  # fmt: skip
BUFFALO = _network(
    "arcface_buffalo_l",
    _file(
        "w600k_r50.onnx", 174_383_860, "4c06341c33c2ca1f86781dab0e829f88ad5b64be9fba56e56bc9ebdefc619e43",
        (f"{HUB}/public-data/insightface/resolve/main/models/buffalo_l/w600k_r50.onnx",),
        ("models/buffalo_l/w600k_r50.onnx", "insightface/models/buffalo_l/w600k_r50.onnx"),
    ),
    outputs=1,
)  # fmt: skip
ANTELOPE = _network(
    "arcface_antelopev2",
    _file(
        "glintr100.onnx", 260_665_334, "4ab1d6435d639628a6f3e5008dd4f929edf4c4124b1a7169e1048f9fef534cdf",
        (f"{HUB}/DIAMONIK7777/antelopev2/resolve/main/glintr100.onnx",),
        ("models/antelopev2/glintr100.onnx", "insightface/models/antelopev2/glintr100.onnx"),
    ),
    outputs=1,
)  # fmt: skip
