"""Films for units: what the script "controlnet m2m" is given, and the frames that come of it."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from controlstack.core.errors import HintError
from controlstack.scripts.webui.films import DURATION, Films, frames_of, tracks_of

SIDE = 32


def film(path: Path, levels: list[int]) -> Path:
    """A film of grey frames, the left half of each red."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 8, (SIDE, SIDE))
    for level in levels:
        frame = np.full((SIDE, SIDE, 3), level, np.uint8)
        frame[:, : SIDE // 2] = (0, 0, 250)
        writer.write(frame)
    writer.release()
    return path


def levels(frames: list[dict[int, Any]], unit: int) -> list[int]:
    return [round(float(each[unit][:, -4:].mean())) for each in frames]


def test_clients_find_it_by_its_name() -> None:
    assert Films().title() == "controlnet m2m" and Films().show(False) and Films().show(True)


def test_arguments_are_those_of_the_webui() -> None:
    """A film, a picture and a switch for each unit of the page, then milliseconds."""
    tracks, duration = tracks_of(["a.mp4", None, True, None, "picture", False, 80])
    assert [tuple(each) for each in tracks] == [("a.mp4", None, True), (None, "picture", False)] and duration == 80
    assert tracks_of([]) == ([], DURATION) and tracks_of(["a.mp4", None, False])[1] == DURATION


def test_each_unit_has_its_own_film_and_the_shortest_counts(tmp_path: Path) -> None:
    long, short = film(tmp_path / "long.avi", [40, 90, 140, 190]), film(tmp_path / "short.avi", [200, 20])
    still = np.full((SIDE, SIDE, 3), 77, np.uint8)
    tracks, _ = tracks_of([str(long), None, False, None, {"image": still}, False, str(short), None, False, 50])
    frames = list(frames_of(tracks, trusted=True))
    assert len(frames) == 2 and all(each.keys() == {0, 1, 2} for each in frames)
    assert np.allclose(levels(frames, 0), [40, 90], atol=4) and np.allclose(levels(frames, 2), [200, 20], atol=4)
    assert levels(frames, 1) == [77, 77]
    red, green, blue = (int(frames[0][0][16, 4, channel]) for channel in range(3))
    assert red > 200 and green < 60 and blue < 60, "red comes first"


def test_clients_send_bytes_and_never_a_path(tmp_path: Path) -> None:
    path = film(tmp_path / "film.avi", [60, 160])
    sent = base64.b64encode(path.read_bytes()).decode()
    tracks, _ = tracks_of([sent, None, False])
    assert np.allclose(levels(list(frames_of(tracks, trusted=False)), 0), [60, 160], atol=4)
    with pytest.raises(HintError, match=r"unit 0: .*(no base64 text|no format)"):
        list(frames_of(tracks_of([str(path), None, False])[0], trusted=False))


def test_what_is_no_film_is_said_with_its_unit(tmp_path: Path) -> None:
    (tmp_path / "no.mp4").write_bytes(b"no film")
    good = str(film(tmp_path / "film.avi", [60]))
    tracks, _ = tracks_of([good, None, False, str(tmp_path / "no.mp4"), None, False])
    with pytest.raises(HintError, match="unit 1: its film is of no format"):
        list(frames_of(tracks, trusted=True))
