"""What all our nodes share: their category, the types that only they know, and schema fields of newer hosts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from comfy_api.latest import io

CATEGORY = "conditioning/ControlStack"
PREFIX = "ControlStack"

UnitsType = io.Custom("CONTROLSTACK_UNITS")  # a `Units` tuple
ScheduleType = io.Custom("CONTROLSTACK_SCHEDULE")  # a tuple of `Keyframe`
PoseType = io.Custom("POSE_KEYPOINT")  # frames as OpenPose's JSON, as other packs know them
BlockWeightsType = io.Custom("CONTROLSTACK_BLOCK_WEIGHTS")  # a `BlockWeights`


def schema(name: str, *, aliases: Sequence[str], shows: bool = False, **settings: Any) -> io.Schema:
    """Return a node's schema, without what older hosts do not know.

    aliases: words by which the search finds it. shows: it shows a picture, also when the host need not run it again.
    """
    known = {field.name for field in fields(io.Schema)}
    newer = {"search_aliases": list(aliases), "has_intermediate_output": shows}
    newer = {key: value for key, value in newer.items() if key in known}
    return io.Schema(node_id=f"{PREFIX}{name}", category=CATEGORY, **newer, **settings)
