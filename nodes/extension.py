"""Where ComfyUI enters: the list of our nodes."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from .hinting.node_kinds import HINTS
from .hinting.node_pose import DrawPose
from .hinting.node_preprocess import Preprocess
from .hinting.replaced import PreprocessByOtherName, replace_others
from .node_apply import ApplyControlUnits
from .node_model import LoadControlModel
from .node_one import ControlInOne
from .node_patch import PatchControl
from .node_reference import ReferenceControl
from .node_unit import ControlUnit
from .reports.node_report import ControlReport
from .shapes.node_frames import ControlKeyframe, FrameWeights
from .shapes.node_shape import BlockWeightsNode, ControlSchedule
from .webui.node_infotext import InfotextFromUnits, UnitsFromInfotext

NODES: tuple[type[io.ComfyNode], ...] = (
    ControlInOne,
    LoadControlModel,
    ControlUnit,
    ApplyControlUnits,
    PatchControl,
    ReferenceControl,
    Preprocess,
    *HINTS,
    PreprocessByOtherName,
    DrawPose,
    ControlSchedule,
    ControlKeyframe,
    FrameWeights,
    BlockWeightsNode,
    UnitsFromInfotext,
    InfotextFromUnits,
    ControlReport,
)


class ControlStackExtension(ComfyExtension):
    """Our nodes, as the host asks for them."""

    async def on_load(self) -> None:
        await replace_others()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return list(NODES)
