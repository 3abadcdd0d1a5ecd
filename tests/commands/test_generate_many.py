"""`controlstack generate` over folders, patterns and videos: one by one, whole, resumed by content."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from controlstack.cli import main
from controlstack.pipelines.tiny_world import BASE, CONTROLS, IMAGES
from controlstack.preprocessors.images import read_image, write_image

SMALL = ["--seed", "0", "--steps", "1", "--width", "64", "--height", "64", "--scheduler", "ddim", "--guidance", "2"]
VIDEO = pytest.mark.skipif(importlib.util.find_spec("imageio_ffmpeg") is None, reason="videos need imageio-ffmpeg")
pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # imageio-ffmpeg leaves pipes open


def unit(image: object, more: str = "") -> list[str]:
    return ["--unit", f"image={image},preprocessor=canny,low=50,high=100,model={CONTROLS / 'canny.safetensors'}{more}"]


def run(out: Path, *arguments: object) -> int:
    return main(["generate", "--base", str(BASE), *SMALL, "--output", str(out), *map(str, arguments)])


def files(folder: Path) -> set[str]:
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    return {each for each in found if not each.endswith("settings.toml")}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    shutil.copy(IMAGES / "scene-1.png", folder / "a.png")
    shutil.copy(IMAGES / "scene-2.png", folder / "sub" / "b.png")
    return folder


def test_each_picture_of_a_folder_is_drawn_as_alone(photos: Path, tmp_path: Path) -> None:
    out, alone = tmp_path / "out", tmp_path / "alone"
    (photos / "notes.txt").write_text("no picture")
    assert run(out, *unit(photos), "--prompt", "a red star", "--batch", 2) == 0
    assert files(out) == {"a.png", "a-2.png", "sub/b.png", "sub/b-2.png"}
    assert run(alone, *unit(photos / "sub" / "b.png"), "--prompt", "a red star", "--batch", 2) == 0
    for one, other in (("sub/b.png", "00001.png"), ("sub/b-2.png", "00002.png")):
        assert np.array_equal(read_image(out / one), read_image(alone / other))
    assert not np.array_equal(read_image(out / "a.png"), read_image(out / "sub" / "b.png"))
    assert main(["again", str(out / "sub" / "b.png"), "--output", str(tmp_path / "again")]) == 0
    assert np.array_equal(read_image(tmp_path / "again" / "00001.png"), read_image(out / "sub" / "b.png"))


def test_resume_goes_by_content_and_settings(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"

    def wrote(*more: object) -> int:
        assert run(out, *unit(photos), "--resume", *more) == 0
        return int(capsys.readouterr().out.split()[1])

    assert wrote() == 2
    assert wrote() == 0
    old = (photos / "a.png").stat()
    shutil.copy(IMAGES / "scene-3.png", photos / "a.png")
    os.utime(photos / "a.png", ns=(old.st_atime_ns, old.st_mtime_ns - 10**12))  # another picture, an older date
    assert wrote() == 1
    assert wrote("--steps", "2") == 2
    assert wrote("--steps", "2", "--seed", "-1") == 2
    assert wrote("--steps", "2", "--seed", "-1") == 0  # any seed will do
    (out / "sub" / "b.png").unlink()
    assert wrote("--steps", "2", "--seed", "-1") == 1


def test_patterns_and_bad_pictures(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    (photos / "c.png").write_bytes(b"<html>")
    assert run(out, *unit(photos / "*.png")) == 2
    captured = capsys.readouterr()
    assert "c.png" in captured.err
    assert "1 could not be drawn, the others are done" in captured.err
    assert files(out) == {"a.png"}
    assert run(out, *unit(photos / "*.webp")) == 2
    assert "nothing is called" in capsys.readouterr().err


def test_pictures_and_masks_go_together(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    masks = tmp_path / "masks"
    masks.mkdir()
    for number, name in enumerate(("1.png", "2.png")):
        write_image(masks / name, np.full((64, 64), 255 * number, np.uint8))
    assert run(tmp_path / "out", *unit(photos, f",mask={masks}")) == 0
    plain = tmp_path / "plain"
    assert run(plain, *unit(photos)) == 0
    assert not np.array_equal(read_image(tmp_path / "out" / "a.png"), read_image(plain / "a.png"))
    assert np.array_equal(read_image(tmp_path / "out" / "sub" / "b.png"), read_image(plain / "sub" / "b.png"))
    (masks / "2.png").unlink()
    capsys.readouterr()
    assert run(tmp_path / "out", *unit(photos, f",mask={masks}")) == 2
    assert "must have as many pictures" in capsys.readouterr().err


def test_pictures_to_start_from(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run(out, "--image", photos, "--strength", "0.5", "--steps", "2") == 0
    assert files(out) == {"a.png", "sub/b.png"}


def test_an_interrupt_keeps_what_is_finished(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from controlstack.preprocessors import images
    from controlstack.standalone.terminal import series

    out, whole = tmp_path / "out", images.write_image

    def write(path: Path, *arguments: object) -> None:
        if path.name == "b.png":
            raise KeyboardInterrupt
        whole(path, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(images, "write_image", write)
    assert run(out, *unit(photos)) == 130
    assert "wrote 1 picture" in capsys.readouterr().out
    assert files(out) == {"a.png"}
    monkeypatch.undo()
    assert run(out, *unit(photos), "--resume") == 0
    assert "wrote 1 picture" in (said := capsys.readouterr().out)
    assert "1 were there" in said
    assert series.KEY in __import__("PIL.Image", fromlist=["open"]).open(out / "a.png").text


@VIDEO
def test_a_video_becomes_frames_and_a_video(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from controlstack.standalone.media.videos import open_video, write_video

    clip, out = tmp_path / "clip.mp4", tmp_path / "out"
    scenes = [read_image(IMAGES / f"scene-{number}.png") for number in (1, 2, 3)]
    write_video(clip, 8.0, scenes)
    assert run(out, *unit(clip)) == 0
    assert files(out) == {"clip.mp4", "clip/000001.png", "clip/000002.png", "clip/000003.png"}
    with open_video(out / "clip.mp4") as made:
        assert made.rate == 8.0
        frames = list(made.frames)
    assert len(frames) == 3
    assert np.array_equal(frames[1], read_image(out / "clip" / "000002.png"))
    capsys.readouterr()
    assert run(out, *unit(clip), "--resume") == 0
    assert "wrote 0 pictures" in capsys.readouterr().out


def test_animations_and_poses_are_pictures_of_units(tmp_path: Path) -> None:
    from PIL import Image

    frames = [Image.open(IMAGES / f"scene-{number}.png").convert("RGB") for number in (1, 2)]
    frames[0].save(tmp_path / "moving.webp", save_all=True, append_images=frames[1:], lossless=True)
    out = tmp_path / "out"
    assert run(out, *unit(tmp_path / "moving.webp")) == 0
    assert files(out) == {"moving/000001.png", "moving/000002.png"}
    person = {"pose_keypoints_2d": [20, 10, 1, 40, 40, 1] + [0, 0, 0] * 16}
    frame = {"people": [person], "canvas_width": 64, "canvas_height": 64}
    poses = tmp_path / "pose.json"
    poses.write_text(json.dumps(frame))
    said = f"image={poses},preprocessor=openpose,model={CONTROLS / 'canny.safetensors'}"
    assert run(tmp_path / "posed", "--unit", said) == 0
    assert read_image(tmp_path / "posed" / "00001-hint-1.png").any()
    poses.write_text(json.dumps([frame, frame]))
    assert run(tmp_path / "frames", "--unit", said) == 0
    assert files(tmp_path / "frames") == {"pose/000001.png", "pose/000002.png"}
    first = read_image(tmp_path / "posed" / "00001.png")
    assert np.array_equal(read_image(tmp_path / "frames" / "pose" / "000001.png"), first)
