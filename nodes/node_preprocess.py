"""The node that makes a hint alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from comfy_api.latest import io, ui
from torch import Tensor

from .choice import RESOLUTION, preprocessor_input, unusable, words
from .hints import asked, make_hint, make_poses
from .schema import PoseType, schema


class Preprocess(io.ComfyNode):
    """Pictures -> hints, without a unit."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "Preprocess",
            shows=True,
            display_name="Preprocess to Hint (ControlNet)",
            description="Turns pictures into hints: edges, lines, depth, normals, poses, segments, tiles, colours. "
            "Works on batches.",
            aliases=words(),
            inputs=[
                io.Image.Input("image", tooltip="One picture or a batch."),
                preprocessor_input("What to make of the picture."),
                RESOLUTION,
                io.Mask.Input("mask", optional=True, tooltip="What is to be invented, for inpainting preprocessors."),
            ],
            outputs=[
                io.Image.Output(display_name="hint", tooltip="The hints, one for each picture."),
                PoseType.Output(
                    display_name="pose", tooltip="What a pose preprocessor found, for editors and Draw Pose."
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, preprocessor: Any = None) -> bool | str:
        return unusable(preprocessor) or True

    @classmethod
    def execute(
        cls, image: Tensor, preprocessor: Mapping[str, Any], resolution: int, mask: Tensor | None = None
    ) -> io.NodeOutput:
        request = asked(preprocessor, resolution=resolution or None)
        hint, poses = make_poses(request, image) or (make_hint(request, image, mask), [])
        return io.NodeOutput(hint, poses, ui=ui.PreviewImage(hint.clamp(0, 1), cls=cls))
