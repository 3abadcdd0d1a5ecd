"""Preprocess once more for each kind of hint that people search by a word which nodes of the host have in their names.

The host's search ranks names above all other words, so a node is found by such a word only if its name begins with it.
They are the same node with a shorter list, and what is special to one is its name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ...preprocessors import Preprocessor, find
from ...units.offer import of_type
from ...units.request import NONE
from ..choice import unusable
from .node_preprocess import hint_schema, make


class _Hint:
    """What such nodes share; NAME and TITLE name the node, TYPE is its control type, ABOUT what it makes."""

    NAME, TITLE, TYPE, ABOUT = "", "", "", ""

    @classmethod
    def among(cls) -> list[Preprocessor]:
        """Return what the node offers, best first."""
        return [each for each in of_type(cls.TYPE) if each.id != NONE]

    @classmethod
    def define_schema(cls) -> io.Schema:
        return hint_schema(cls.NAME, cls.TITLE, cls.ABOUT, aliases=(cls.TYPE.lower(),), among=cls.among())

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


class InvertHint(_Hint, io.ComfyNode):
    """Drawings of black lines on white -> what line models read."""

    NAME, TITLE, TYPE = "InvertHint", "Invert Hint (ControlNet)", "Invert"
    ABOUT = "Inverts pictures: a drawing of black lines on white becomes what line models read."

    @classmethod
    def among(cls) -> list[Preprocessor]:
        """Return the one that inverts, which is of several control types."""
        return [find("invert")]


HINTS: tuple[type[io.ComfyNode], ...] = (DepthHint, PoseHint, SoftEdgeHint, TileHint, InpaintHint, InvertHint)
