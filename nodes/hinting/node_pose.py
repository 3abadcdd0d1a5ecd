"""The node that draws poses: from a preprocessor, an editor, or any other pack that gives out POSE_KEYPOINT."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from comfy_api.latest import io, ui

from ...core.errors import HintError
from ...preprocessors.poses.drawing import draw
from ...preprocessors.poses.points import Poses, from_json
from ...preprocessors.resize import scaled_size
from ..schema import PoseType, schema

SEEN = 0.3  # confidence from which whole-body estimators count a point as seen; some give out all points


class DrawPose(io.ComfyNode):
    """Poses -> hints."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "DrawPose",
            shows=True,
            display_name="Draw Pose",
            description="Draws poses as control models know them, at the size that is needed.",
            aliases=("openpose", "render pose", "pose keypoint", "openpose editor"),
            inputs=[
                PoseType.Input("pose", tooltip="From Preprocess, a pose editor, or another pack."),
                io.Int.Input("resolution", default=0, min=0, max=8192, step=8,
                             tooltip="Short side of the hint, in pixels; 0 is the size at which the pose was found."),
                io.Boolean.Input("body", default=True, tooltip="Draw limbs and joints."),
                io.Boolean.Input("hands", default=True, tooltip="Draw hands."),
                io.Boolean.Input("face", default=True, tooltip="Draw faces."),
                io.Boolean.Input("thick", default=False,
                                 tooltip="Limbs grow with the picture, as xinsir's SDXL models want them."),
                io.Float.Input("confidence", default=SEEN, min=0.0, max=1.0, step=0.01, optional=True,
                               tooltip="Points that are less sure are not drawn; 0 draws every point."),
            ],
            outputs=[io.Image.Output(display_name="hint", tooltip="The hints, one for each pose.")],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, pose: Any, resolution: int, body: bool, hands: bool, face: bool, thick: bool, confidence: float = SEEN
    ) -> io.NodeOutput:
        frames = [from_json(frame).sure(confidence) for frame in _frames(pose)]
        if not frames:
            raise HintError("there is no pose to draw: connect the pose of a preprocessor such as dw_openpose_full")
        size = _size(frames[0], resolution)
        drawn = [draw(each.scaled(*size), body=body, hands=hands, face=face, thick=thick) for each in frames]
        hint = torch.from_numpy(np.stack(drawn)).float() / 255
        return io.NodeOutput(hint, ui=ui.PreviewImage(hint, cls=cls))


def _frames(pose: Any) -> Sequence[Any]:
    """Return a list of frames; some packs hand over one."""
    return [pose] if isinstance(pose, Mapping) else list(pose or [])


def _size(pose: Poses, resolution: int) -> tuple[int, int]:
    """Return the one (width, height) of all hints of a batch."""
    if not resolution:
        return pose.width, pose.height
    height, width = scaled_size((pose.height, pose.width), resolution)
    return width, height
