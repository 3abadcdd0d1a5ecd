"""What is said about a run on the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..core.stack import Firing
from .units import Loaded


def describe(loaded: Sequence[Loaded], firings: Sequence[Firing]) -> Iterator[str]:
    """One line a unit; a unit that never acted is a warning."""
    for number, (each, firing) in enumerate(zip(loaded, firings, strict=True), start=1):
        warning = "" if firing.fired else "  WARNING: it never acted; check its range and weight"
        yield f"unit {number} ({each.unit.model.name}) fires on {firing} steps{warning}"
