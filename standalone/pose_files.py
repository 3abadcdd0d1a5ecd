"""Poses in files: what a pose preprocessor found as JSON, and a hint drawn from such a file without any network.

The layout is OpenPose's, as pose editors and ComfyUI's `POSE_KEYPOINT` have it; the latter is a list of frames.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..core.errors import HintError
from ..core.files import read_json, replacing
from ..preprocessors import Preprocessor
from ..preprocessors.poses.points import Poses, from_json, to_json
from ..preprocessors.resize import scaled_size

Image = NDArray[np.uint8]

SUFFIX = ".json"


def write_poses(path: Path, poses: Poses) -> None:
    """Write one frame as JSON; the file appears complete or not at all. HintError if it cannot be written."""
    try:
        with replacing(path) as part:
            part.write_text(json.dumps([to_json(poses)]), encoding="utf-8")
    except OSError as error:
        raise HintError(f"cannot write {path}: {error.strerror or error}") from error


def read_poses(path: Path) -> Poses:
    """Return the poses of a file with one frame; FileError and HintError say what is wrong with it."""
    content = read_json(path, "pose file")
    frames = content if isinstance(content, list) else [content]
    if len(frames) != 1:
        raise HintError(f"{path} has {len(frames)} frames, expected one: save each in a file of its own")
    try:
        return from_json(frames[0])
    except HintError as error:
        raise HintError(f"{path}: {error}") from error


def draw_file(path: Path, preprocessor: Preprocessor, resolution: int | None, settings: Mapping[str, float]) -> Image:
    """Return the hint of a file, as the preprocessor would draw it; HintError if it finds no poses itself."""
    if not preprocessor.finds_poses:
        raise HintError(f"{path}: {preprocessor.id} draws no poses: choose openpose_full, or give a picture")
    poses = read_poses(path)
    if resolution is not None:
        height, width = scaled_size((poses.height, poses.width), resolution)
        poses = poses.scaled(width, height)
    return draw(poses, preprocessor, settings)


def draw(poses: Poses, preprocessor: Preprocessor, settings: Mapping[str, float]) -> Image:
    """Return the hint of poses, uint8 [H, W, 3] of their canvas."""
    assert preprocessor.finish is not None
    return preprocessor.finish(poses, np.zeros((poses.height, poses.width, 3), np.uint8), **settings)
