"""The kinds of prompts that pictures are asked for with, as the ControlNet paper tells them apart."""

from __future__ import annotations

from collections.abc import Sequence

from ..world import GUIDANCE, World

NONE, INSUFFICIENT, CONFLICTING, FULL = KINDS = ("no prompt", "insufficient", "conflicting", "full")
PLAIN = 1.0  # guidance without a prompt: there is nothing to be guided by


def prompts_of(world: World, kind: str) -> tuple[Sequence[str], float]:
    """Return a prompt for each scene, and the guidance scale.

    insufficient: names the ground alone. conflicting: describes the next scene.
    """
    scenes = world.trial.scenes
    captions = [scene.caption for scene in scenes]
    kinds = {
        NONE: [""] * len(scenes),
        INSUFFICIENT: [f"on {scene.ground}" for scene in scenes],
        CONFLICTING: [*captions[1:], captions[0]],
        FULL: captions,
    }
    return kinds[kind], PLAIN if kind == NONE else GUIDANCE
