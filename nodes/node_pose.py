"""The nodes for poses as data: found in pictures, drawn as hints, and exchanged with the editors of other packs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from comfy_api.latest import io, ui
from torch import Tensor

from ..core.errors import HintError
from ..preprocessors.pose_drawing import draw
from ..preprocessors.poses import from_json, to_json
from .hints import find_poses, pose_input, unusable
from .schema import schema

PoseType = io.Custom("POSE_KEYPOINT")  # a list of frames, as comfyui_controlnet_aux writes them


class FindPoses(io.ComfyNode):
    """Pictures -> poses."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "FindPoses",
            display_name="Find Poses",
            description="Finds people or animals in pictures, as data for pose editors and for Draw Poses.",
            aliases=("openpose", "dwpose", "pose keypoint", "animal pose"),
            inputs=[
                io.Image.Input("image", tooltip="One picture or a batch."),
                pose_input("What finds them."),
                io.Int.Input(
                    "resolution",
                    default=0,
                    min=0,
                    max=8192,
                    step=8,
                    tooltip="Short side in pixels; 0 is the picture's.",
                ),
            ],
            outputs=[PoseType.Output(display_name="poses", tooltip="Everybody in each picture.")],
        )

    @classmethod
    def validate_inputs(cls, preprocessor: Any = None) -> bool | str:
        return unusable(preprocessor) or True

    @classmethod
    def execute(cls, image: Tensor, preprocessor: Mapping[str, Any], resolution: int) -> io.NodeOutput:
        return io.NodeOutput([to_json(poses) for poses in find_poses(image, preprocessor, resolution or None)])


class DrawPoses(io.ComfyNode):
    """Poses -> hints for a pose control model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "DrawPoses",
            display_name="Draw Poses",
            description="Draws poses as OpenPose does, for control models that read them: from Find Poses, or from any "
            "editor that gives out POSE_KEYPOINT.",
            aliases=("render openpose json", "pose keypoint", "openpose editor"),
            inputs=[
                PoseType.Input("poses", tooltip="What to draw, a picture for each frame."),
                io.Boolean.Input("body", default=True, tooltip="Whether to draw bodies."),
                io.Boolean.Input("hands", default=True, tooltip="Whether to draw hands."),
                io.Boolean.Input("face", default=True, tooltip="Whether to draw faces."),
                io.Boolean.Input("thick", default=False, tooltip="Thick limbs, for xinsir's SDXL models."),
            ],
            outputs=[io.Image.Output(display_name="hint", tooltip="The drawings.")],
        )

    @classmethod
    def execute(cls, poses: Any, body: bool, hands: bool, face: bool, thick: bool) -> io.NodeOutput:
        frames = [from_json(frame) for frame in (poses if isinstance(poses, list) else [poses])]
        sizes = {(each.width, each.height) for each in frames}
        if len(sizes) != 1:
            raise HintError(f"the poses have the canvases {sorted(sizes)}: expected frames of one size")
        drawn = [draw(each, body=body, hands=hands, face=face, thick=thick) for each in frames]
        hint = torch.from_numpy(np.stack(drawn)).float() / 255
        return io.NodeOutput(hint, ui=ui.PreviewImage(hint, cls=cls))
