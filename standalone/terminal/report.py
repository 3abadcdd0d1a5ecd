"""What is said about a run on the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ...units.saying import extra_cost

if TYPE_CHECKING:
    from ...core.firing import Firing
    from ...units.ready import Ready


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, such as '1 picture' and '2 pictures'."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def describe(loaded: Sequence[Ready], firings: Sequence[Firing]) -> Iterator[str]:
    """Yield a line for each unit; a unit that never acted is a warning."""
    for number, (each, firing) in enumerate(zip(loaded, firings, strict=True), start=1):
        warning = "" if firing.fired else f"  WARNING: it never acted: {_reason(each)}"
        model = each.unit.model
        told = ", ".join((model.name, *(f"{name}={value}" for name, value in model.options.items())))
        yield f"unit {number} ({told}) fires on {firing} steps{firing.remark}{extra_cost(model)}{warning}"
        if each.warning:
            yield f"  WARNING: {each.warning}"
        if model.delta is None and each.request.delta_strength != 1:
            yield (
                f"  WARNING: {model.name} changes no weights of the base model, so delta_strength="
                f"{each.request.delta_strength:g} changes nothing"
            )


def _reason(each: Ready) -> str:
    """Return why a unit never acted, and what to change."""
    unit, said = each.unit, each.request
    if not said.enabled:
        return "it is off (enabled=no)"
    if not said.weight:
        return "its weight is 0"
    if unit.mask is not None and not unit.mask.any():
        return "its mask is black everywhere, and white is where it acts"
    return f"no step lies in its range, {said.start:g} to {said.end:g}, or its curve is 0 there: widen it"
