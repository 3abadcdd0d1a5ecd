"""What reports say of a unit, the same on every edge."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ..core.wording import counted

if TYPE_CHECKING:
    from ..core.control import ControlModel
    from ..core.schedule import Schedule
    from ..core.unit import ControlUnit

Say = Callable[..., str]  # an English sentence with {places}, and their values -> the sentence in a language


def extra_cost(model: ControlModel) -> str:
    """Return what a step of the unit costs beside its own network, as the end of a sentence; empty for nothing."""
    count = model.evaluations
    if not count:
        return ""
    return f", each with {counted(count, 'more evaluation')} of the base model"


def why_idle(unit: ControlUnit, *, enabled: bool = True, say: Say = str.format) -> str:
    """Return why a unit never acted in a run, and what to change. enabled: whether it was switched on."""
    if not enabled:
        return say("it is off: switch it on")
    return _without_force(unit, say) or _out_of_range(unit.schedule, say)


def _without_force(unit: ControlUnit, say: Say) -> str:
    """Return why a unit acts on no step of any run; empty if it does."""
    if not unit.weight:
        return say("its weight is 0: raise it")
    if unit.mask is not None and not unit.mask.any():
        return say("its effect mask is black everywhere: paint white where it is to act")
    if unit.block_weights is not None and not any(unit.block_weights):
        return say("its block weights are all 0: raise one")
    return ""


def _out_of_range(schedule: Schedule, say: Say) -> str:
    frames, start, end = schedule.keyframes, f"{schedule.start:g}", f"{schedule.end:g}"
    if frames and not any(frame.weight for frame in frames):
        return say("its curve is 0 everywhere: raise a point")
    if frames:
        return say(
            "no step lies in its range, {start} to {end}, or its curve is 0 there: widen the one or raise the other",
            start=start,
            end=end,
        )
    return say("no step lies in its range, {start} to {end}: widen it", start=start, end=end)
