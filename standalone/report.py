"""What is said about a run: on the terminal, and inside the pictures."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import fields

from ..core.stack import Firing
from ..pipelines.drawing import Request
from ..units.ready import Ready
from ..units.record import to_record

PICTURES = ("image", "mask")  # of a request: no text
KEY = "controlstack"  # of the machine-readable text in a PNG file


def describe(loaded: Sequence[Ready], firings: Sequence[Firing]) -> Iterator[str]:
    """Yield a line for each unit; a unit that never acted is a warning."""
    for number, (each, firing) in enumerate(zip(loaded, firings, strict=True), start=1):
        warning = "" if firing.fired else "  WARNING: it never acted; check its range and weight"
        yield f"unit {number} ({each.unit.model.name}) fires on {firing} steps{warning}"
        if each.warning:
            yield f"  WARNING: {each.warning}"


def metadata(request: Request, seed: int, loaded: Sequence[Ready], firings: Sequence[Firing]) -> dict[str, str]:
    """Return the text of a PNG file: JSON for programs, a line for people."""
    prompt = request.prompts[seed - request.seed]
    settings = {field.name: getattr(request, field.name) for field in fields(request) if field.name not in PICTURES}
    units = [
        {"settings": to_record(each.request), "fired": firing.fired, "steps": firing.steps}
        for each, firing in zip(loaded, firings, strict=True)
    ]
    line = f"{prompt}\nSteps: {request.steps}, Sampler: {request.scheduler}, CFG scale: {request.guidance}"
    line += f", Seed: {seed}, Size: {request.width}x{request.height}"
    return {KEY: json.dumps({**settings, "prompt": prompt, "seed": seed, "units": units}), "parameters": line}
