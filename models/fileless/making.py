"""A control model without a file, made by its name for a base model."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ...core.control import ControlModel
from ..kinds.references import REFERENCES
from .reference import ReferenceModel
from .revision import LABEL, RevisionModel


def make_fileless(name: str, base_state: Mapping[str, Tensor]) -> ControlModel:
    """Return the model of that name, one of `kinds.fileless.FILELESS`.

    base_state: the base U-Net's weights by bare ldm names. IncompatibleModelError for a base that it cannot act on.
    """
    if name in REFERENCES:
        return ReferenceModel(name, list(base_state))
    return RevisionModel(name, base_state[LABEL].shape[1] if LABEL in base_state else 0)
