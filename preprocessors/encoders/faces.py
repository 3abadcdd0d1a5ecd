"""What is known of a face: for IP-Adapters of the kind FaceID and for InstantID.

Of several faces in a picture the largest counts. The picture's colours are the real ones; both projects' examples hand
OpenCV's order to one network and the other to the next, which is not repeated here.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from ...core.embedding import Embedding, Encoder, Values
from ..declaration import Output
from ..networks.network import Network
from ..perform import Preprocessor
from . import insightface
from .clip import CLIP_H, penultimate_states, see
from .insightface import NUMBERS, aligned, largest_face, recognise

if TYPE_CHECKING:
    import cv2
    import numpy as np
    from numpy.typing import NDArray

    from ..networks.onnx_files import OnnxNetwork
    from ..resize import Image

    Seen = NDArray[np.float32]
else:
    from ..lazy import cv2, np

FACE_SIDE = 224  # pixels of the aligned face that CLIP sees, `ip_adapter_faceid.py`
COLOURS = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255))  # of the points, InstantID `draw_kps`
NOSE = 2  # the point to which lines lead from the four others
LINE, DOT, DIM = 4, 10, 0.6  # half a line's width and a dot's radius in pixels, and how bright lines are


def face_embedding(
    images: Image, detector: OnnxNetwork, recogniser: OnnxNetwork, *, owner: str, normalised: bool
) -> Seen:
    """Return the numbers of the largest face of each picture [B, H, W, 3], float32 [B, 1, 512]."""
    found = [recognise(image, largest_face(image, detector, owner), recogniser) for image in images]
    return np.stack([each / np.linalg.norm(each) if normalised else each for each in found])[:, None]


def face_and_states(images: Image, detector: OnnxNetwork, recogniser: OnnxNetwork, clip: Any, *, owner: str) -> Seen:
    """Return the numbers of the largest face, and what CLIP sees of it aligned: float32 [B, 1 + T, 2 D]."""
    faces = [largest_face(image, detector, owner) for image in images]
    pairs = list(zip(images, faces, strict=True))
    crops = np.stack([aligned(image, face, FACE_SIDE) for image, face in pairs])
    states = see(crops, clip, look=penultimate_states)
    first = np.zeros((len(images), 1, states.shape[-1]), np.float32)
    for row, (image, face) in enumerate(pairs):
        numbers = recognise(image, face, recogniser)
        first[row, 0, :NUMBERS] = numbers / np.linalg.norm(numbers)
    return np.concatenate([first, states], axis=1)


def draw_points(image: Image, detector: OnnxNetwork, *, owner: str) -> Image:
    """Return the five points of the largest face of [H, W, 3] in colours on black, with lines to the nose."""
    canvas = np.zeros(image.shape, np.uint8)
    points = largest_face(image, detector, owner).points
    for colour, point in zip(COLOURS, points, strict=True):
        middle, way = (point + points[NOSE]) / 2, point - points[NOSE]
        angle = int(np.degrees(np.arctan2(way[1], way[0])))
        axes = (int(np.hypot(*way) / 2), LINE)
        if way.any():
            outline = cv2.ellipse2Poly((int(middle[0]), int(middle[1])), axes, angle, 0, 360, 1)
            cv2.fillConvexPoly(canvas, np.array(outline), colour)
    canvas = (canvas * DIM).astype(np.uint8)
    for colour, (x, y) in zip(COLOURS, points, strict=True):
        cv2.circle(canvas, (int(x), int(y)), DOT, colour, -1)
    return canvas


def _entry(
    kind: str, title: str, doc: str, run: Any, embedding: Embedding, networks: tuple[Network, ...], **more: Any
) -> Preprocessor:
    return Preprocessor(
        id=kind, title=title, doc=doc, run=partial(run, owner=kind), output=Output.EMBEDDING, embedding=embedding,
        networks=(insightface.DETECTOR, *networks), batchable=True, resizes=False, pad=1, **more,
    )  # fmt: skip


FACE_ID = _entry(
    "face_id",
    "Face: who it is",
    "What InsightFace (buffalo_l) recognises in the largest face, for IP-Adapters of the kind FaceID. A unit whose "
    "model reads more of the face gets that.",
    partial(face_embedding, normalised=True),
    Embedding(Encoder.BUFFALO, Values.FACE),
    (insightface.BUFFALO,),
    aliases=("ip-adapter_face_id",),
    control_types=("IP-Adapter",),
)
FACE_ID_RAW = _entry(
    "face_id_raw",
    "Face: who it is, unnormalised",
    "What InsightFace (buffalo_l) recognises in the largest face, at its own length, for FaceID portrait unnorm.",
    partial(face_embedding, normalised=False),
    Embedding(Encoder.BUFFALO, Values.RAW_FACE),
    (insightface.BUFFALO,),
    control_types=("IP-Adapter",),
)
FACE_ID_PLUS = _entry(
    "face_id_plus",
    "Face: who it is and how it looks",
    "What InsightFace (buffalo_l) recognises in the largest face, and what CLIP ViT-H/14 sees of it, for IP-Adapters "
    "of the kinds FaceID plus and plusv2.",
    face_and_states,
    Embedding(Encoder.BUFFALO, Values.FACE_STATES),
    (insightface.BUFFALO, CLIP_H),
    aliases=("ip-adapter_face_id_plus",),
    control_types=("IP-Adapter",),
)
INSTANT_ID = _entry(
    "instant_id_face_embedding",
    "Face: who it is (InstantID)",
    "What InsightFace (antelopev2) recognises in the largest face, for the adapter of InstantID.",
    partial(face_embedding, normalised=False),
    Embedding(Encoder.ANTELOPE, Values.RAW_FACE),
    (insightface.ANTELOPE,),
    control_types=("Instant-ID",),
)
INSTANT_ID_POINTS = Preprocessor(
    id="instant_id_face_keypoints",
    title="Face: its five points (InstantID)",
    doc="Eyes, nose and corners of the mouth of the largest face as dots with lines, for the ControlNet of InstantID.",
    run=partial(draw_points, owner="instant_id_face_keypoints"),
    output=Output.LABELS,
    polarity="points and lines in colours of their own on black",
    control_types=("Instant-ID",),
    networks=(insightface.DETECTOR,),
    pad=1,
)
