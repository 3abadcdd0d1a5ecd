"""Names that people know and that do nothing here, each with the reason and what to choose instead.

They are found, so that an old workflow hears why and not "unknown"; they are not in the list that programs offer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..core.errors import PreprocessorError
from .declaration import Output
from .perform import Preprocessor

if TYPE_CHECKING:
    from .resize import Image

FACES = "PuLID's adapters are not read here; choose face_id_plus with an IP-Adapter of the kind FaceID plusv2"
TORCHSCRIPT = "its TorchScript network needs an operator that few machines have"


def _nothing(_image: Image) -> Image:
    raise PreprocessorError("this preprocessor does nothing")  # a call is refused before it comes here


def _absent(name: str, control_type: str, reason: str, *aliases: str) -> Preprocessor:
    return Preprocessor(
        id=name,
        title=name,
        doc="Known from other programs.",
        run=_nothing,
        output=Output.RGB,
        aliases=aliases,
        control_types=(control_type,),
        absent=reason,
    )


ABSENT: tuple[Preprocessor, ...] = (
    _absent("depth_leres++", "Depth", "its boosting is left out on purpose; choose depth_anything_v2 for fine detail"),
    _absent("depth_hand_refiner", "Depth", "it needs the hand model MANO, which may not be used commercially; choose "
            "depth_anything_v2"),
    _absent("densepose", "OpenPose", f"{TORCHSCRIPT}; choose dw_openpose_full", "densepose (pruple bg & purple torso)"),
    _absent("densepose_parula", "OpenPose", f"{TORCHSCRIPT}; choose dw_openpose_full",
            "densepose_parula (black bg & blue torso)"),
    _absent("rtmw", "OpenPose", "its scores are no probabilities, so nothing tells which points it sees; choose "
            "dw_openpose_full, which has the same 133 points"),
    _absent("rtmo", "OpenPose", "it finds people and points at once, in a way of its own; choose rtmpose"),
    _absent("seg_ufade20k", "Segmentation", "UniFormer needs mmcv, which hosts of today cannot install; choose "
            "seg_ofade20k, which has the same colours", "segmentation"),
    _absent("normal_dsine", "NormalMap", "no maintained package has its network, and its weights are not free; choose "
            "normal_bae, whose colours are the same"),
    _absent("normal_metric3d", "NormalMap", "no maintained package has its network; choose normal_bae",
            "depth_metric3d"),
    _absent("softedge_diffusionedge", "SoftEdge", "DiffusionEdge needs packages that nobody maintains; choose "
            "softedge_teed, which is sharp too", "diffusion_edge"),
    _absent("ip-adapter_pulid", "IP-Adapter", FACES, "facexlib", "EVA02-CLIP"),
)  # fmt: skip
