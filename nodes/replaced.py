"""Nodes of comfyui_controlnet_aux in old graphs -> ours, where that pack is not installed; newer hosts replace them.

Sources: the pack's `node_wrappers`, for the names of its nodes and the order of their widgets.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from comfy_api.latest import io

from .choice import CHOICE
from .node_preprocess import Preprocess

RESOLUTION = ("resolution",)


@dataclass(frozen=True, slots=True)
class Other:
    """A node of the pack: the preprocessor that does the same, its widgets in order, and ours of its numbers."""

    preprocessor: str
    widgets: tuple[str, ...] = RESOLUTION
    numbers: Mapping[str, str] = field(default_factory=dict[str, str])  # our parameter -> their widget


_SAFE = ("safe", *RESOLUTION)
_MIDAS = ("a", "bg_threshold", *RESOLUTION)
_PARTS = ("detect_hand", "detect_body", "detect_face", *RESOLUTION)
_GAMMA = ("gamma_correction", *RESOLUTION)

OTHERS: Mapping[str, Other] = {
    "CannyEdgePreprocessor": Other(
        "canny", ("low_threshold", "high_threshold", *RESOLUTION), {"low": "low_threshold", "high": "high_threshold"}
    ),
    "PyraCannyPreprocessor": Other(
        "pyracanny", ("low_threshold", "high_threshold", *RESOLUTION),
        {"low": "low_threshold", "high": "high_threshold"},
    ),
    "HEDPreprocessor": Other("softedge_hed", _SAFE),
    "PiDiNetPreprocessor": Other("softedge_pidinet", _SAFE),
    "TEEDPreprocessor": Other("softedge_teed", ("safe_steps", *RESOLUTION), {"steps": "safe_steps"}),
    "FakeScribblePreprocessor": Other("scribble_hed", _SAFE),
    "Scribble_PiDiNet_Preprocessor": Other("scribble_pidinet", _SAFE),
    "Scribble_XDoG_Preprocessor": Other(
        "scribble_xdog", ("threshold", *RESOLUTION), {"threshold": "threshold"}
    ),
    "LineArtPreprocessor": Other("lineart_realistic", ("coarse", *RESOLUTION)),
    "AnimeLineArtPreprocessor": Other("lineart_anime"),
    "Manga2Anime_LineArt_Preprocessor": Other("lineart_anime_denoise"),
    "LineartStandardPreprocessor": Other(
        "lineart_standard", ("guassian_sigma", "intensity_threshold", *RESOLUTION),
        {"sigma": "guassian_sigma", "threshold": "intensity_threshold"},
    ),
    "M-LSDPreprocessor": Other(
        "mlsd", ("score_threshold", "dist_threshold", *RESOLUTION),
        {"value": "score_threshold", "distance": "dist_threshold"},
    ),
    "BinaryPreprocessor": Other("binary", ("bin_threshold", *RESOLUTION), {"threshold": "bin_threshold"}),
    "MiDaS-DepthMapPreprocessor": Other("depth_midas", _MIDAS),
    "MiDaS-NormalMapPreprocessor": Other("normal_midas", _MIDAS, {"background": "bg_threshold"}),
    "Zoe-DepthMapPreprocessor": Other("depth_zoe"),
    "DepthAnythingPreprocessor": Other("depth_anything_large", ("ckpt_name", *RESOLUTION)),
    "DepthAnythingV2Preprocessor": Other("depth_anything_v2_large", ("ckpt_name", *RESOLUTION)),
    "BAE-NormalMapPreprocessor": Other("normal_bae"),
    "OpenposePreprocessor": Other("openpose_full", _PARTS),
    "DWPreprocessor": Other("dw_openpose_full", (*_PARTS, "bbox_detector", "pose_estimator")),
    "AnimalPosePreprocessor": Other("animal_openpose", ("bbox_detector", "pose_estimator", *RESOLUTION)),
    "OneFormer-ADE20K-SemSegPreprocessor": Other("seg_ofade20k"),
    "OneFormer-COCO-SemSegPreprocessor": Other("seg_ofcoco"),
    "SAMPreprocessor": Other("mobile_sam"),
    "ColorPreprocessor": Other("color_grid"),
    "ImageLuminanceDetector": Other("recolor_luminance", _GAMMA, {"gamma": "gamma_correction"}),
    "ImageIntensityDetector": Other("recolor_intensity", _GAMMA, {"gamma": "gamma_correction"}),
}  # fmt: skip


async def replace_others() -> None:
    """Tell the host which of our nodes stands for which of the pack's; older hosts replace nothing."""
    kind = getattr(io, "NodeReplace", None)
    if kind is None:
        return
    from comfy_api.latest import ComfyAPI

    for name, other in OTHERS.items():
        await ComfyAPI().node_replacement.register(_replacement(kind, name, other))


def _replacement(kind: Any, name: str, other: Other) -> Any:
    numbers = [{"new_id": f"{CHOICE}.{ours}", "old_id": theirs} for ours, theirs in other.numbers.items()]
    same = [{"new_id": each, "old_id": each} for each in ("image", *RESOLUTION)]
    return kind(
        new_node_id=Preprocess.GET_SCHEMA().node_id,
        old_node_id=name,
        old_widget_ids=list(other.widgets),
        input_mapping=[*same, {"new_id": CHOICE, "set_value": other.preprocessor}, *numbers],
        output_mapping=[{"new_idx": index, "old_idx": index} for index in (0, 1)],
    )
