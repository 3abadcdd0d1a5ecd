"""Poses in files: what a pose preprocessor found as JSON, and a hint drawn from such a file without any network.

The layout is OpenPose's, as pose editors and ComfyUI's `POSE_KEYPOINT` have it; the latter is a list of frames.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...core.errors import HintError
from ...core.files import read_json, replacing
from ...preprocessors import Preprocessor
from ...preprocessors.poses.points import Poses, from_json, to_json
from ...preprocessors.resize import scaled_size

Image = NDArray[np.uint8]

SUFFIX = ".json"


def write_poses(path: Path, poses: Poses) -> None:
    """Write one frame as JSON; the file appears complete or not at all. HintError if it cannot be written."""
    try:
        with replacing(path) as part:
            part.write_text(json.dumps([to_json(poses)]), encoding="utf-8")
    except OSError as error:
        raise HintError(f"cannot write {path}: {error.strerror or error}") from error


def read_poses(path: Path) -> list[Poses]:
    """Return the poses of each frame of a file; FileError and HintError say what is wrong with it."""
    content = read_json(path, "pose file")
    frames = content if isinstance(content, list) else [content]
    if not frames:
        raise HintError(f"{path} has no frames: export it again")
    try:
        return [from_json(frame) for frame in frames]
    except HintError as error:
        raise HintError(f"{path}: {error}") from error


def draw_file(
    path: Path, preprocessor: Preprocessor, resolution: int | None, settings: Mapping[str, float]
) -> Iterator[Image]:
    """Yield the hint of each frame, as the preprocessor would draw it; HintError if it finds no poses itself."""
    if not preprocessor.finds_poses:
        raise HintError(f"{path}: {preprocessor.id} draws no poses: choose openpose_full, or give a picture")
    for poses in read_poses(path):
        if resolution is None:
            yield draw(poses, preprocessor, settings)
        else:
            height, width = scaled_size((poses.height, poses.width), resolution)
            yield draw(poses.scaled(width, height), preprocessor, settings)


def draw(poses: Poses, preprocessor: Preprocessor, settings: Mapping[str, float]) -> Image:
    """Return the hint of poses, uint8 [H, W, 3] of their canvas."""
    assert preprocessor.finish is not None
    return preprocessor.finish(poses, np.zeros((poses.height, poses.width, 3), np.uint8), **settings)
