"""Every preprocessor, in the order in which users see them: the one list that all edges draw from."""

from __future__ import annotations

from collections.abc import Iterator

from ..core.embedding import Embedding
from ..core.errors import PreprocessorError
from .absent import ABSENT
from .declaration import nearest
from .encoders import clip, colours
from .encoders import faces as faces_known
from .lines import edges, linearts, softedge, strokes
from .perform import Preprocessor
from .pictures import color, inpaint, lama, ready, tiles
from .poses import dwpose, faces, holistic, openpose, vitpose
from .regions import anime_face, mobile_sam, segment_anything, segmentation
from .surfaces import depth, depth_anything, depth_pro, marigold, normals

REGISTRY: tuple[Preprocessor, ...] = (
    ready.NONE,
    edges.CANNY,
    edges.PYRACANNY,
    softedge.SOFTEDGE_HED,
    softedge.SOFTEDGE_HEDSAFE,
    softedge.SOFTEDGE_TEED,
    softedge.SOFTEDGE_PIDINET,
    softedge.SOFTEDGE_PIDISAFE,
    linearts.LINEART_REALISTIC,
    linearts.LINEART_COARSE,
    linearts.LINEART_ANIME,
    linearts.LINEART_MANGA,
    strokes.LINEART_STANDARD,
    softedge.SOFTEDGE_ANYLINE,
    linearts.MLSD,
    softedge.SCRIBBLE_HED,
    softedge.SCRIBBLE_PIDINET,
    strokes.SCRIBBLE_XDOG,
    strokes.THRESHOLD,
    strokes.BINARY,
    ready.INVERT,
    depth_anything.DEPTH_ANYTHING_V2,
    depth_anything.DEPTH_ANYTHING_V2_BASE,
    depth_anything.DEPTH_ANYTHING_V2_LARGE,
    depth_anything.DEPTH_ANYTHING,
    depth_anything.DEPTH_ANYTHING_BASE,
    depth_anything.DEPTH_ANYTHING_LARGE,
    depth_pro.DEPTH_PRO,
    marigold.DEPTH_MARIGOLD,
    depth.DEPTH_MIDAS,
    depth.DEPTH_ZOE,
    depth.DEPTH_LERES,
    normals.NORMAL_BAE,
    marigold.NORMAL_MARIGOLD,
    normals.NORMAL_MIDAS,
    ready.NORMAL_OPENGL,
    ready.NORMAL_DIRECTX,
    dwpose.DW_OPENPOSE_FULL,
    dwpose.ANIMAL_OPENPOSE,
    dwpose.RTMPOSE,
    vitpose.VITPOSE,
    holistic.OPENPOSE_MEDIAPIPE,
    openpose.OPENPOSE,
    openpose.OPENPOSE_HAND,
    openpose.OPENPOSE_FACE,
    openpose.OPENPOSE_FACEONLY,
    openpose.OPENPOSE_FULL,
    faces.MEDIAPIPE_FACE,
    segmentation.SEG_OFADE20K,
    segmentation.SEG_OFCOCO,
    segmentation.SEG_M2FADE20K,
    segment_anything.SEG_SAM2,
    mobile_sam.MOBILE_SAM,
    anime_face.SEG_ANIME_FACE,
    color.COLOR_GRID,
    softedge.T2IA_SKETCH,
    color.RECOLOR_LUMINANCE,
    color.RECOLOR_INTENSITY,
    tiles.GRAY,
    color.SHUFFLE,
    tiles.TILE_RESAMPLE,
    tiles.TILE_COLORFIX,
    tiles.TILE_COLORFIX_SHARP,
    tiles.TILE_GUIDED,
    tiles.BLUR_GAUSSIAN,
    inpaint.INPAINT,
    inpaint.INPAINT_ONLY,
    lama.INPAINT_LAMA,
    inpaint.INPAINT_BLACK,
    inpaint.MASK,
    inpaint.OUTPAINT,
    ready.REFERENCE_ONLY,
    ready.REFERENCE_ADAIN,
    ready.REFERENCE_BOTH,
    clip.CLIP_VISION,
    clip.CLIP_L_IMAGE,
    clip.BY_MODEL,
    clip.CLIP_H_IMAGE,
    clip.CLIP_H_STATES,
    clip.CLIP_G_IMAGE,
    clip.REVISION,
    clip.REVISION_IGNORE_PROMPT,
    colours.COLOURS,
    faces_known.FACE_ID,
    faces_known.FACE_ID_PLUS,
    faces_known.FACE_ID_RAW,
    faces_known.INSTANT_ID,
    faces_known.INSTANT_ID_POINTS,
)
SHOWN = 100  # characters of a name in a message


def find(name: str) -> Preprocessor:
    """Return the preprocessor of that id or alias, in any case; PreprocessorError names the nearest if there is none.

    Names in `ABSENT` are found too: their `absent` says why they do nothing, and a call raises it.
    """
    wanted = name.strip().lower()
    everything = (*REGISTRY, *ABSENT)
    for preprocessor in everything:
        if wanted in (each.lower() for each in names(preprocessor)):
            return preprocessor
    close = nearest(name[:SHOWN], (each for preprocessor in everything for each in names(preprocessor)))
    offer = f"did you mean {' or '.join(close)}?" if close else f"known are {', '.join(each.id for each in REGISTRY)}"
    raise PreprocessorError(f"there is no preprocessor {name[:SHOWN]!r}: {offer}")


def offered() -> tuple[Preprocessor, ...]:
    """Return the preprocessors that units can use: those whose result a control model reads."""
    return tuple(each for each in REGISTRY if not each.no_hint)


def of_type(control_type: str) -> tuple[Preprocessor, ...]:
    """Return what is offered for one of sd-webui-controlnet's control types, such as "Depth", best first."""
    return tuple(each for each in offered() if control_type in each.control_types)


def encoding(embedding: Embedding) -> Preprocessor:
    """Return the preprocessor that gives an embedding; PreprocessorError if there is none."""
    for preprocessor in REGISTRY:
        if preprocessor.embedding == embedding:
            return preprocessor
    known = "; ".join(str(each.embedding) for each in REGISTRY if each.embedding is not None)
    raise PreprocessorError(f"no preprocessor gives the {embedding}: known are {known}")


def names(preprocessor: Preprocessor) -> Iterator[str]:
    """Yield its id, then its aliases."""
    yield preprocessor.id
    yield from preprocessor.aliases
