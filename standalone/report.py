"""What is said about a run on the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ..units.saying import extra_cost

if TYPE_CHECKING:
    from ..core.stack import Firing
    from ..units.ready import Ready


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, such as '1 picture' and '2 pictures'."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def describe(loaded: Sequence[Ready], firings: Sequence[Firing]) -> Iterator[str]:
    """Yield a line for each unit; a unit that never acted is a warning."""
    for number, (each, firing) in enumerate(zip(loaded, firings, strict=True), start=1):
        warning = "" if firing.fired else "  WARNING: it never acted; check its range and weight"
        model = each.unit.model
        told = ", ".join((model.name, *(f"{name}={value}" for name, value in model.options.items())))
        yield f"unit {number} ({told}) fires on {firing} steps{firing.remark}{extra_cost(model)}{warning}"
        if each.warning:
            yield f"  WARNING: {each.warning}"
