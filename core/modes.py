"""Choices of a unit that are words: how a hint is fitted, and whose word counts more.

They stand apart from what acts on them, which needs torch, so that forms and lists of choices need not wait for it.
"""

from __future__ import annotations

from enum import Enum


class ResizeMode(Enum):
    """What happens when a hint and the picture differ in aspect ratio."""

    JUST_RESIZE = "just resize"  # stretch
    CROP = "crop and resize"  # keep the aspect ratio, cut what is over
    FILL = "resize and fill"  # keep the aspect ratio, fill what is missing


class ControlMode(Enum):
    """Whose word counts more, as in sd-webui-controlnet."""

    BALANCED = "balanced"
    PROMPT = "prompt"  # "my prompt is more important": shallow blocks are softened
    CONTROL = "control"  # "the control is more important": softened, and the cond rows alone
