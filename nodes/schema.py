"""What all our nodes share: their category, the types that only they know, and schema fields of newer hosts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from comfy_api.latest import io

from ..units.request import FIELDS

CATEGORY = "conditioning/ControlStack"
PREFIX = "ControlStack"

UnitsType = io.Custom("CONTROLSTACK_UNITS")  # a `Units` tuple
ScheduleType = io.Custom("CONTROLSTACK_SCHEDULE")  # a tuple of `Keyframe`
PoseType = io.Custom("POSE_KEYPOINT")  # frames as OpenPose's JSON, as other packs know them
BlockWeightsType = io.Custom("CONTROLSTACK_BLOCK_WEIGHTS")  # a `BlockWeights`


def number(name: str, tooltip: str, *, field: str = "weight", default: float = 1.0, **more: Any) -> io.Input:
    """Return the input of a number with the bounds of one of a unit's fields."""
    bounds = {"min": FIELDS[field].least, "max": FIELDS[field].most}
    return io.Float.Input(name, default=default, step=0.01, tooltip=tooltip, **bounds, **more)


def place(name: str, default: float, tooltip: str) -> io.Input:
    """Return the input of a place in the run, from 0 to 1."""
    return io.Float.Input(name, default=default, min=0.0, max=1.0, step=0.001, tooltip=tooltip)


def prompt_inputs() -> list[io.Input]:
    """Return the inputs of both prompts."""
    return [
        io.Conditioning.Input("positive", tooltip="What the picture should show."),
        io.Conditioning.Input("negative", tooltip="What it should not show."),
    ]


def prompt_outputs() -> list[io.Output]:
    """Return the outputs of both prompts under control."""
    return [
        io.Conditioning.Output(display_name="positive", tooltip="The prompt under control."),
        io.Conditioning.Output(display_name="negative", tooltip="The negative prompt under control."),
    ]


def schema(name: str, *, aliases: Sequence[str], shows: bool = False, **settings: Any) -> io.Schema:
    """Return a node's schema, without what older hosts do not know.

    aliases: words by which the search finds it. shows: it shows a picture, also when the host need not run it again.
    """
    known = {field.name for field in fields(io.Schema)}
    newer = {"search_aliases": list(aliases), "has_intermediate_output": shows}
    newer = {key: value for key, value in newer.items() if key in known}
    return io.Schema(node_id=f"{PREFIX}{name}", category=CATEGORY, **newer, **settings)
