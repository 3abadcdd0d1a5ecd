"""Preprocess once more for each kind of hint that people search by a word which nodes of the host have in their names.

The host's search ranks names above all other words, so a node is found by such a word only if its name begins with it.
They are the same node with a shorter list, and what is special to one is its name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..choice import unusable
from .node_preprocess import hint_schema, make


class _Hint:
    """What such nodes share; NAME and TITLE name the node, TYPE is its control type, ABOUT what it makes."""

    NAME, TITLE, TYPE, ABOUT = "", "", "", ""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return hint_schema(cls.NAME, cls.TITLE, cls.ABOUT, aliases=(cls.TYPE.lower(),), control_type=cls.TYPE)

    @classmethod
    def validate_inputs(cls, preprocessor: Any = None) -> bool | str:
        return unusable(preprocessor) or True

    @classmethod
    def execute(
        cls: Any, image: Tensor, preprocessor: Mapping[str, Any], resolution: int, mask: Tensor | None = None
    ) -> io.NodeOutput:
        return make(cls, image, preprocessor, resolution, mask)


class DepthHint(_Hint, io.ComfyNode):
    """Pictures -> depth maps."""

    NAME, TITLE, TYPE = "DepthHint", "Depth Hint (ControlNet)", "Depth"
    ABOUT = "Turns pictures into depth maps: near is white."


class PoseHint(_Hint, io.ComfyNode):
    """Pictures -> drawn poses."""

    NAME, TITLE, TYPE = "PoseHint", "Pose Hint (ControlNet)", "OpenPose"
    ABOUT = "Finds the people in pictures and draws their poses, in OpenPose's colours."


class SoftEdgeHint(_Hint, io.ComfyNode):
    """Pictures -> soft edges."""

    NAME, TITLE, TYPE = "SoftEdgeHint", "HED Soft Edge Hint (ControlNet)", "SoftEdge"
    ABOUT = "Turns pictures into soft edges: HED, PiDiNet, TEED and their like."


class TileHint(_Hint, io.ComfyNode):
    """Pictures -> what tile models read."""

    NAME, TITLE, TYPE = "TileHint", "Tile Hint (ControlNet)", "Tile"
    ABOUT = "Makes of pictures what tile models read, to add detail to them."


class InpaintHint(_Hint, io.ComfyNode):
    """Pictures and masks -> what inpainting models read."""

    NAME, TITLE, TYPE = "InpaintHint", "Inpaint Hint (ControlNet)", "Inpaint"
    ABOUT = "Marks what inpainting models are to invent, and what beside it they are to see."


HINTS: tuple[type[io.ComfyNode], ...] = (DepthHint, PoseHint, SoftEdgeHint, TileHint, InpaintHint)
