"""What kinds of hints can be compared, and which kind a preprocessor makes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ....preprocessors.perform import Preprocessor
    from ..measures.lpips import Lpips
    from ..measures.measure import Measure

EDGES, SOFT_EDGES, DEPTH, SEGMENTATION, POSE = KINDS = ("edges", "soft-edges", "depth", "segmentation", "pose")
OF_TYPE = {  # control types, as preprocessors declare them
    "Canny": EDGES,
    "MLSD": EDGES,
    "Scribble": EDGES,
    "SoftEdge": SOFT_EDGES,
    "Lineart": SOFT_EDGES,
    "Depth": DEPTH,
    "Segmentation": SEGMENTATION,
    "OpenPose": POSE,
}


def kind_of(preprocessor: Preprocessor) -> str | None:
    """Return the kind of hint that a preprocessor makes; None where hints of that kind are not compared."""
    return next((OF_TYPE[each] for each in preprocessor.control_types if each in OF_TYPE), None)


def measure_of(kind: str, preprocessor: Preprocessor, lpips: Lpips | None) -> Measure:
    """Return the measure for hints of a kind. lpips: for soft edges, where its network is given."""
    from ..measures.hints import DepthError, EdgeF1, Segmentation, SoftEdges
    from ..measures.pose import PoseOks

    made: dict[str, Callable[[], Measure]] = {
        EDGES: EdgeF1,
        SOFT_EDGES: lambda: SoftEdges(lpips),
        DEPTH: DepthError,
        SEGMENTATION: Segmentation,
        POSE: lambda: PoseOks(lambda picture: preprocessor.poses(picture)[0]),
    }
    return made[kind]()
