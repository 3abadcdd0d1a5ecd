"""Nodes of comfyui_controlnet_aux in old graphs -> ours, where that pack is not installed; newer hosts replace them.

Sources: the pack's `node_wrappers`, for the names of its nodes and the order of their widgets.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ...units.request import NONE
from ..choice import CHOICE, RESOLUTION, unusable
from ..schema import schema
from .node_preprocess import Preprocess, make

ALL_IN_ONE = "AIO_Preprocessor"  # the pack's node for all of its preprocessors, by the names of its nodes
SIZE = ("resolution",)


@dataclass(frozen=True, slots=True)
class Other:
    """A node of the pack: the preprocessor that does the same, its widgets in order, and ours of its numbers."""

    preprocessor: str
    widgets: tuple[str, ...] = SIZE
    numbers: Mapping[str, str] = field(default_factory=dict[str, str])  # our parameter -> their widget


_SAFE = ("safe", *SIZE)
_MIDAS = ("a", "bg_threshold", *SIZE)
_PARTS = ("detect_hand", "detect_body", "detect_face", *SIZE)
_GAMMA = ("gamma_correction", *SIZE)

OTHERS: Mapping[str, Other] = {
    "CannyEdgePreprocessor": Other(
        "canny", ("low_threshold", "high_threshold", *SIZE), {"low": "low_threshold", "high": "high_threshold"}
    ),
    "PyraCannyPreprocessor": Other(
        "pyracanny", ("low_threshold", "high_threshold", *SIZE),
        {"low": "low_threshold", "high": "high_threshold"},
    ),
    "HEDPreprocessor": Other("softedge_hed", _SAFE),
    "PiDiNetPreprocessor": Other("softedge_pidinet", _SAFE),
    "TEEDPreprocessor": Other("softedge_teed", ("safe_steps", *SIZE), {"steps": "safe_steps"}),
    "FakeScribblePreprocessor": Other("scribble_hed", _SAFE),
    "Scribble_PiDiNet_Preprocessor": Other("scribble_pidinet", _SAFE),
    "Scribble_XDoG_Preprocessor": Other(
        "scribble_xdog", ("threshold", *SIZE), {"threshold": "threshold"}
    ),
    "LineArtPreprocessor": Other("lineart_realistic", ("coarse", *SIZE)),
    "AnimeLineArtPreprocessor": Other("lineart_anime"),
    "Manga2Anime_LineArt_Preprocessor": Other("lineart_anime_denoise"),
    "LineartStandardPreprocessor": Other(
        "lineart_standard", ("guassian_sigma", "intensity_threshold", *SIZE),
        {"sigma": "guassian_sigma", "threshold": "intensity_threshold"},
    ),
    "M-LSDPreprocessor": Other(
        "mlsd", ("score_threshold", "dist_threshold", *SIZE),
        {"value": "score_threshold", "distance": "dist_threshold"},
    ),
    "BinaryPreprocessor": Other("binary", ("bin_threshold", *SIZE), {"threshold": "bin_threshold"}),
    "MiDaS-DepthMapPreprocessor": Other("depth_midas", _MIDAS),
    "MiDaS-NormalMapPreprocessor": Other("normal_midas", _MIDAS, {"background": "bg_threshold"}),
    "Zoe-DepthMapPreprocessor": Other("depth_zoe"),
    "DepthAnythingPreprocessor": Other("depth_anything_large", ("ckpt_name", *SIZE)),
    "DepthAnythingV2Preprocessor": Other("depth_anything_v2_large", ("ckpt_name", *SIZE)),
    "BAE-NormalMapPreprocessor": Other("normal_bae"),
    "OpenposePreprocessor": Other("openpose_full", _PARTS),
    "DWPreprocessor": Other("dw_openpose_full", (*_PARTS, "bbox_detector", "pose_estimator")),
    "AnimalPosePreprocessor": Other("animal_openpose", ("bbox_detector", "pose_estimator", *SIZE)),
    "OneFormer-ADE20K-SemSegPreprocessor": Other("seg_ofade20k"),
    "OneFormer-COCO-SemSegPreprocessor": Other("seg_ofcoco"),
    "SAMPreprocessor": Other("mobile_sam"),
    "ColorPreprocessor": Other("color_grid"),
    "ImageLuminanceDetector": Other("recolor_luminance", _GAMMA, {"gamma": "gamma_correction"}),
    "ImageIntensityDetector": Other("recolor_intensity", _GAMMA, {"gamma": "gamma_correction"}),
}  # fmt: skip


class PreprocessByOtherName(io.ComfyNode):
    """Pictures and the name of one of the pack's nodes -> hints, as its AIO_Preprocessor makes them."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "PreprocessByOtherName",
            shows=True,
            display_name="Preprocess by the Name of Another Pack (ControlNet)",
            description="Stands in old graphs for AIO_Preprocessor of comfyui_controlnet_aux: the same names, our "
            "preprocessors. In new graphs use Preprocess to Hint.",
            aliases=("aio preprocessor", "aio aux preprocessor"),
            inputs=[
                io.Image.Input("image", tooltip="One picture or a batch."),
                io.Combo.Input(CHOICE, options=[NONE, *sorted(OTHERS)], tooltip="The name of a node of that pack."),
                RESOLUTION,
            ],
            outputs=[io.Image.Output(display_name="hint", tooltip="The hints, one for each picture.")],
        )

    @classmethod
    def validate_inputs(cls, preprocessor: str | None = None) -> bool | str:
        return preprocessor is None or unusable(_by_name(preprocessor)) or True

    @classmethod
    def execute(cls, image: Tensor, preprocessor: str, resolution: int) -> io.NodeOutput:
        made = make(cls, image, _by_name(preprocessor), resolution, None)
        return io.NodeOutput(made.args[0], ui=made.ui)


def _by_name(name: str) -> dict[str, Any]:
    """Return the choice of a preprocessor by the name of one of the pack's nodes."""
    return {CHOICE: OTHERS[name].preprocessor if name in OTHERS else NONE}


async def replace_others() -> None:
    """Tell the host which of our nodes stands for which of the pack's; older hosts replace nothing."""
    kind = getattr(io, "NodeReplace", None)
    if kind is None:
        return
    from comfy_api.latest import ComfyAPI

    for name, other in OTHERS.items():
        await ComfyAPI().node_replacement.register(_replacement(kind, name, other))
    same = [{"new_id": each, "old_id": each} for each in ("image", CHOICE, "resolution")]
    by_name = {"input_mapping": same, "output_mapping": [{"new_idx": 0, "old_idx": 0}]}
    node = PreprocessByOtherName.GET_SCHEMA().node_id
    widgets = [CHOICE, "resolution"]
    await ComfyAPI().node_replacement.register(
        kind(new_node_id=node, old_node_id=ALL_IN_ONE, old_widget_ids=widgets, **by_name)
    )


def _replacement(kind: Any, name: str, other: Other) -> Any:
    numbers = [{"new_id": f"{CHOICE}.{ours}", "old_id": theirs} for ours, theirs in other.numbers.items()]
    same = [{"new_id": each, "old_id": each} for each in ("image", *SIZE)]
    return kind(
        new_node_id=Preprocess.GET_SCHEMA().node_id,
        old_node_id=name,
        old_widget_ids=list(other.widgets),
        input_mapping=[*same, {"new_id": CHOICE, "set_value": other.preprocessor}, *numbers],
        output_mapping=[{"new_idx": index, "old_idx": index} for index in (0, 1)],
    )
