"""What is said about a run on the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ...units.saying import extra_cost, why_idle

if TYPE_CHECKING:
    from ...core.firing import Firing
    from ...units.ready import Ready


def describe(loaded: Sequence[Ready], firings: Sequence[Firing]) -> Iterator[str]:
    """Yield a line for each unit; a unit that never acted is a warning."""
    for number, (each, firing) in enumerate(zip(loaded, firings, strict=True), start=1):
        idle = "" if firing.fired else why_idle(each.unit, enabled=each.request.enabled)
        warning = f"  WARNING: it never acted: {idle}" if idle else ""
        model = each.unit.model
        told = ", ".join((model.name, *(f"{name}={value}" for name, value in model.options.items())))
        yield f"unit {number} ({told}) fires on {firing.on_steps}{firing.remark}{extra_cost(model)}{warning}"
        if each.warning:
            yield f"  WARNING: {each.warning}"
        if model.delta is None and each.request.delta_strength != 1:
            yield (
                f"  WARNING: {model.name} changes no weights of the base model, so delta_strength="
                f"{each.request.delta_strength:g} changes nothing"
            )
