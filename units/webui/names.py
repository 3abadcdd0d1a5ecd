"""The preprocessors of sd-webui-controlnet: the two names it gives each, and what its two nameless numbers mean.

The WebUI's API and old pictures use them. Every one of the names is found by `find`. Source: its `Preprocessor`
registry, internal name -> label.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...preprocessors import find

if TYPE_CHECKING:
    from ...preprocessors import Parameter, Preprocessor

LABELS = {
    "none": "none",
    "canny": "canny",
    "invert": "invert (from white bg & black line)",
    "blur_gaussian": "blur_gaussian",
    "scribble_xdog": "scribble_xdog",
    "shuffle": "shuffle",
    "threshold": "threshold",
    "tile_resample": "tile_resample",
    "tile_colorfix": "tile_colorfix",
    "tile_colorfix+sharp": "tile_colorfix+sharp",
    "recolor_luminance": "recolor_luminance",
    "recolor_intensity": "recolor_intensity",
    "lineart_standard": "lineart_standard (from white bg & black line)",
    "color": "t2ia_color_grid",
    "inpaint": "inpaint_global_harmonious",
    "inpaint_only": "inpaint_only",
    "inpaint_only+lama": "inpaint_only+lama",
    "reference_only": "reference_only",
    "reference_adain": "reference_adain",
    "reference_adain+attn": "reference_adain+attn",
    "depth": "depth_midas",
    "depth_zoe": "depth_zoe",
    "depth_leres": "depth_leres",
    "depth_leres++": "depth_leres++",
    "depth_anything": "depth_anything",
    "depth_anything_v2": "depth_anything_v2",
    "depth_hand_refiner": "depth_hand_refiner",
    "openpose": "openpose",
    "openpose_hand": "openpose_hand",
    "openpose_face": "openpose_face",
    "openpose_faceonly": "openpose_faceonly",
    "openpose_full": "openpose_full",
    "dw_openpose_full": "dw_openpose_full",
    "animal_openpose": "animal_openpose",
    "densepose": "densepose (pruple bg & purple torso)",
    "densepose_parula": "densepose_parula (black bg & blue torso)",
    "hed": "softedge_hed",
    "hed_safe": "softedge_hedsafe",
    "pidinet": "softedge_pidinet",
    "pidinet_safe": "softedge_pidisafe",
    "softedge_teed": "softedge_teed",
    "softedge_anyline": "softedge_anyline",
    "scribble_hed": "scribble_hed",
    "pidinet_scribble": "scribble_pidinet",
    "lineart": "lineart_realistic",
    "lineart_coarse": "lineart_coarse",
    "lineart_anime": "lineart_anime",
    "lineart_anime_denoise": "lineart_anime_denoise",
    "mlsd": "mlsd",
    "normal_bae": "normal_bae",
    "normal_map": "normal_midas",
    "normal_dsine": "normal_dsine",
    "oneformer_ade20k": "seg_ofade20k",
    "oneformer_coco": "seg_ofcoco",
    "segmentation": "seg_ufade20k",
    "anime_face_segment": "seg_anime_face",
    "mobile_sam": "mobile_sam",
    "mediapipe_face": "mediapipe_face",
    "pidinet_sketch": "t2ia_sketch_pidi",
    "clip_vision": "t2ia_style_clipvision",
    "ip-adapter-auto": "ip-adapter-auto",
    "ip-adapter_clip_sd15": "ip-adapter_clip_h",
    "ip-adapter_clip_sdxl": "ip-adapter_clip_g",
    "ip-adapter_clip_sdxl_plus_vith": "ip-adapter_clip_sdxl_plus_vith",
    "ip-adapter_face_id": "ip-adapter_face_id",
    "ip-adapter_face_id_plus": "ip-adapter_face_id_plus",
    "ip-adapter_pulid": "ip-adapter_pulid",
    "facexlib": "facexlib",
    "EVA02-CLIP": "EVA02-CLIP",
    "instant_id_face_embedding": "instant_id_face_embedding",
    "instant_id_face_keypoints": "instant_id_face_keypoints",
    "revision_clipvision": "revision_clipvision",
    "revision_ignore_prompt": "revision_ignore_prompt",
}


NUMBERED = frozenset({  # preprocessors whose numbers threshold_a and threshold_b are for clients
    "canny", "blur_gaussian", "scribble_xdog", "threshold", "tile_resample", "tile_colorfix", "tile_colorfix+sharp",
    "recolor_luminance", "recolor_intensity", "reference_only", "reference_adain", "reference_adain+attn",
    "revision_clipvision", "revision_ignore_prompt",
    "depth_leres", "depth_leres++", "softedge_teed", "softedge_anyline", "mlsd", "normal_midas", "normal_dsine",
    "mediapipe_face",
})  # fmt: skip
OWN_SIZE = frozenset({"tile_resample", "recolor_luminance", "recolor_intensity"})  # they have no resolution there


def names(preprocessor: Preprocessor, labels: bool = False) -> list[str]:
    """Return the names that clients know a preprocessor by, or the labels of the page; its id if they know none."""
    known = [LABELS[name] if labels else name for name in LABELS if find(name) is preprocessor]
    return list(dict.fromkeys(known)) or [preprocessor.id]


def thresholds(preprocessor: Preprocessor) -> tuple[Parameter | None, Parameter | None]:
    """Return what threshold_a and threshold_b mean; a preprocessor's other numbers go by their names.

    Clients send both for every preprocessor, 64 as a rule, so they must not set a number that was never theirs.
    """
    if preprocessor.id not in NUMBERED and any(find(name) is preprocessor for name in LABELS):
        return None, None
    first, second, *_ = (*preprocessor.parameters, None, None)
    return first, second
