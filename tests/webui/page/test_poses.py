"""Poses of a unit as JSON: offered by the preview, read from files, and sent by editors."""

from __future__ import annotations

import base64
import json
import re
from typing import Any

import pytest
from controlstack.core.errors import ControlError
from controlstack.preprocessors.poses.drawing import draw
from controlstack.preprocessors.poses.points import from_json
from controlstack.scripts.webui.page.unit.poses import ADDRESS, link, picture_of, sent_by_editor

FRAME = {
    "people": [{"pose_keypoints_2d": [number for i in range(18) for number in (20 + 5 * i, 30 + 10 * (i % 5), 1)]}],
    "canvas_width": 128, "canvas_height": 96,
}  # fmt: skip


def address(content: object) -> str:
    return ADDRESS + base64.b64encode(json.dumps(content).encode()).decode()


@pytest.mark.parametrize("content", [FRAME, [FRAME]], ids=["one frame", "a list of one"])
def test_poses_become_the_picture(content: Any) -> None:
    picture, frame = picture_of(content)
    assert picture.shape == (96, 128, 3) and picture.any()
    assert frame == FRAME and (picture == draw(from_json(FRAME))).all()


def test_what_the_preview_offers_comes_back_from_an_editor() -> None:
    offered = re.search(r'href="(data:[^"]*)"', link(FRAME))
    assert offered is not None and sent_by_editor(offered[1]) == FRAME
    assert link(None) == ""


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([FRAME, FRAME], "has 2 frames"),
        ([], "has 0 frames"),
        ("text", "pose"),
        ({"people": []}, "canvas_width"),
        ({**FRAME, "canvas_width": 1e9}, "canvas_width"),
    ],
)
def test_json_that_is_no_pose_is_said(content: object, words: str) -> None:
    with pytest.raises(ControlError, match=words):
        picture_of(content)


@pytest.mark.parametrize("sent", ["", "javascript:alert(1)", ADDRESS + "?", ADDRESS + base64.b64encode(b"{").decode()])
def test_an_editor_that_sends_something_else(sent: str) -> None:
    with pytest.raises(ControlError, match="pose editor"):
        sent_by_editor(sent)
