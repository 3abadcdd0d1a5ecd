"""The node that makes a hint alone."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from comfy_api.latest import io, ui
from comfy_execution.graph_utils import ExecutionBlocker
from torch import Tensor

from ...preprocessors import Output, Preprocessor
from ...units.offer import preprocessor_of
from ...units.unread import unread
from ..choice import RESOLUTION, preprocessor_input, unusable, words
from ..schema import PoseType, schema
from .hints import Encoded, asked, card, make_hint, make_poses

log = logging.getLogger("controlstack")


class Preprocess(io.ComfyNode):
    """Pictures -> hints, without a unit."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return hint_schema(
            "Preprocess",
            "Preprocess to Hint (ControlNet)",
            "Turns pictures into hints: edges, lines, depth, normals, poses, segments, tiles, colours. "
            "Works on batches.",
            aliases=words(),
        )

    @classmethod
    def validate_inputs(cls, preprocessor: Any = None) -> bool | str:
        return unusable(preprocessor) or True

    @classmethod
    def execute(
        cls, image: Tensor, preprocessor: Mapping[str, Any], resolution: int, mask: Tensor | None = None
    ) -> io.NodeOutput:
        return make(cls, image, preprocessor, resolution, mask)


def hint_schema(
    name: str, title: str, description: str, *, aliases: Sequence[str], among: Sequence[Preprocessor] | None = None
) -> io.Schema:
    """Return the schema of a node that makes hints, by some of the preprocessors; None is all of them."""
    return schema(
        name,
        shows=True,
        display_name=title,
        description=description,
        aliases=aliases,
        inputs=[
            io.Image.Input("image", tooltip="One picture or a batch."),
            preprocessor_input("What to make of the picture.", among=among),
            RESOLUTION,
            io.Mask.Input("mask", optional=True, tooltip="What is to be invented, for inpainting preprocessors."),
        ],
        outputs=[
            io.Image.Output(display_name="hint", tooltip="The hints, one for each picture."),
            PoseType.Output(display_name="pose", tooltip="What a pose preprocessor found, for editors and Draw Pose."),
            io.ClipVisionOutput.Output(
                display_name="embedding", tooltip="What an image encoder saw, for a unit's input of that name."
            ),
        ],
    )


def make(
    node: type[io.ComfyNode], image: Tensor, chosen: Mapping[str, Any], resolution: int, mask: Tensor | None
) -> io.NodeOutput:
    """Return hints, poses and embedding of pictures; the hints are shown on the node."""
    request = asked(chosen, resolution=resolution or None)
    if said := unread(request):
        log.warning(said)
    found = preprocessor_of(request)
    hint, poses = make_poses(request, image) or (make_hint(request, image, mask), [])
    seen = Encoded(hint, found.embedding) if found.output is Output.EMBEDDING else ExecutionBlocker(None)
    shown = card(image, found) if found.output is Output.EMBEDDING else hint
    return io.NodeOutput(shown, poses, seen, ui=ui.PreviewImage(shown.clamp(0, 1), cls=node))
