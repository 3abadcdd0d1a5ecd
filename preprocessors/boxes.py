"""Boxes that networks find: of many for one thing, the best."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# numpy declares some of its methods incompletely; what they return is declared here instead.

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.floating[Any]]
else:
    from .lazy import np

CANDIDATES = 1000  # boxes that are compared with each other; more is noise


def best(corners: Floats, scores: Floats, overlap: float) -> NDArray[np.intp]:
    """Return the rows of boxes [N, 4] (left, top, right, bottom) that non-maximum suppression keeps."""
    left = scores.argsort(kind="stable")[::-1][:CANDIDATES]
    kept: list[Any] = []
    while len(left):
        first, left = left[0], left[1:]
        kept.append(first)
        left = left[_shared(corners[first], corners[left]) <= overlap]
    return np.array(kept, np.intp)


def _shared(one: Floats, others: Floats) -> Floats:
    """Return the intersection over union [N] of one box [4] and each of [N, 4]."""
    corner = np.minimum(one[2:], others[:, 2:]) - np.maximum(one[:2], others[:, :2])
    common = np.prod(corner.clip(min=0), axis=1)
    areas = np.prod(others[:, 2:] - others[:, :2], axis=1) + np.prod(one[2:] - one[:2])
    return common / np.maximum(areas - common, np.finfo(np.float32).tiny)
