"""What reports say of a unit, the same on every edge."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..core.control import ControlModel


def extra_cost(model: ControlModel) -> str:
    """Return what a step of the unit costs beside its own network, as the end of a sentence; empty for nothing."""
    count = model.evaluations
    if not count:
        return ""
    return f", each with {count} more evaluation{'s' if count > 1 else ''} of the base model"
