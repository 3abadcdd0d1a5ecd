"""Keyframes as people write them: a line each, `place weight easing`."""

from __future__ import annotations

from ..core.errors import ScheduleError
from ..core.schedule import Easing, Keyframe

EASINGS = tuple(easing.value for easing in Easing)


def parse_keyframes(text: str) -> tuple[Keyframe, ...]:
    """Lines such as `0.5 0.8 ease-out`; the easing leads to the next line's and may be left out (linear)."""
    lines = (line.strip() for line in text.replace(";", "\n").splitlines())
    frames = tuple(_parse(line) for line in lines if line and not line.startswith("#"))
    if not frames:
        raise ScheduleError("there is no keyframe: write a line such as '0.5 0.8 ease-out' for each")
    return frames


def _parse(line: str) -> Keyframe:
    parts = line.replace(",", " ").split()
    try:
        at, weight = float(parts[0]), float(parts[1])
        easing = Easing(parts[2]) if len(parts) > 2 else Easing.LINEAR
        extra = parts[3:]
    except (ValueError, IndexError):
        extra = [line]
        at = weight = 0.0
        easing = Easing.LINEAR
    if extra:
        raise ScheduleError(f"'{line}' is no keyframe: expected a place from 0 to 1, a weight and one of {EASINGS}")
    return Keyframe(at=at, weight=weight, easing=easing)
