"""`controlstack preprocess`: pictures, folders and videos become hints; an interrupt leaves nothing half-written."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from controlstack.cli import main
from controlstack.preprocessors import ABSENT, REGISTRY, find
from controlstack.preprocessors.images import read_image, read_mask, write_image
from controlstack.preprocessors.networks.network import get_packages
from controlstack.standalone.terminal import preprocessing
from PIL import Image
from skimage import data

ROOT = Path(__file__).resolve().parents[2]
VIDEO = pytest.mark.skipif(importlib.util.find_spec("imageio_ffmpeg") is None, reason="videos need imageio-ffmpeg")
pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # imageio-ffmpeg leaves pipes open


def photo(height: int = 48, width: int = 65, left: int = 100) -> np.ndarray:
    return np.ascontiguousarray(data.astronaut()[100 : 100 + height, left : left + width])


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A folder with two pictures, one of them deeper, and files that are no pictures."""
    folder = tmp_path / "in"
    (folder / "sub").mkdir(parents=True)
    write_image(folder / "one.png", photo())
    write_image(folder / "sub" / "two.webp", photo(left=150))
    (folder / "notes.txt").write_text("no picture")
    (folder / ".hidden.png").write_bytes(b"")
    return folder


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def run(*arguments: object) -> int:
    return main(["preprocess", *map(str, arguments)])


def error_of(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert run(*arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


def test_a_folder_keeps_its_tree(tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert run("canny", tree, "--resolution", 32, "--set", "low=50", "--set", "high=90", "--output", out) == 0
    assert files(out) == {"one-canny.png", "sub/two-canny.png"}
    expected = find("canny")(photo(left=150), resolution=32, low=50, high=90)
    assert np.array_equal(read_image(out / "sub" / "two-canny.png"), expected)
    told = json.loads(Image.open(out / "one-canny.png").text["controlstack"])  # type: ignore[attr-defined]
    assert (told["preprocessor"], told["low"], told["resolution"]) == ("canny", 50, 32)
    assert "wrote 2 hints" in capsys.readouterr().out


def test_an_output_inside_the_folder_is_not_read(tree: Path) -> None:
    for _ in range(2):
        assert run("canny", tree, "--output", tree / "hints") == 0
    assert files(tree / "hints") == {"one-canny.png", "sub/two-canny.png"}


def test_seeds_are_passed_on(tree: Path, tmp_path: Path) -> None:
    for seed in (0, 1):
        assert run("shuffle", tree / "one.png", "--seed", seed, "--output", tmp_path / str(seed)) == 0
    zero, one = (read_image(tmp_path / seed / "one-shuffle.png") for seed in "01")
    assert np.array_equal(zero, find("shuffle")(photo(), seed=0))
    assert np.array_equal(one, find("shuffle")(photo(), seed=1))
    assert not np.array_equal(zero, one)


def test_resume_makes_what_is_missing_or_was_made_otherwise(
    tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert run("canny", tree, "--output", out) == 0
    (out / "one-canny.png").unlink()
    stamp = (out / "sub" / "two-canny.png").stat().st_mtime_ns
    assert run("canny", tree, "--output", out, "--resume") == 0
    assert "wrote 1 hint " in capsys.readouterr().out
    assert (out / "sub" / "two-canny.png").stat().st_mtime_ns == stamp
    (out / "one-canny.png").write_bytes(b"\x89PNG damaged")
    assert run("canny", tree, "--output", out, "--resume") == 0
    assert run("canny", tree, "--output", out, "--resume", "--set", "low=20") == 0
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines()] == ["1", "2"]


def test_hints_of_earlier_runs_are_no_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Who writes hints below the photographs, twice, does not want hints of hints; who names one does."""
    folder, mask = tmp_path / "photos", tmp_path / "mask.png"
    folder.mkdir()
    write_image(folder / "photo.png", photo(), {"controlstack": json.dumps({"units": []})})  # as `generate` writes it
    write_image(mask, photo()[..., 0])
    assert run("inpaint_only", folder, "--mask", mask, "--output", folder / "one") == 0
    assert run("canny", folder, "--output", folder / "two") == 0
    assert "wrote 1 hint " in (said := capsys.readouterr().out)
    assert "left out 2 that are hints already" in said
    assert files(folder / "two") == {"photo-canny.png"}
    assert "but 1 hint of earlier runs" in error_of(capsys, "canny", folder / "two", "--output", tmp_path / "out")
    assert run("invert", folder / "two" / "photo-canny.png", "--output", tmp_path / "out") == 0


def test_resume_notices_a_changed_picture_and_another_mask(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, picture = tmp_path / "out", tmp_path / "photo.png"
    write_image(picture, photo())
    for grey in (0, 255):
        write_image(tmp_path / f"{grey}.png", np.full((48, 65), grey, np.uint8))
    arguments = ("inpaint_only", picture, "--output", out, "--resume", "--mask")

    def wrote(mask: str) -> str:
        assert run(*arguments, tmp_path / mask) == 0
        return capsys.readouterr().out

    assert "wrote 1 hint " in wrote("0.png")
    assert "wrote 0 hints" in wrote("0.png")
    assert "wrote 1 hint " in wrote("255.png")
    before = picture.stat().st_mtime_ns
    os.utime(picture, ns=(before + 10**12, before + 10**12))
    assert "wrote 0 hints" in wrote("255.png")  # a later date alone changes nothing
    write_image(picture, photo(left=20))
    os.utime(picture, ns=(before - 10**12, before - 10**12))
    assert "wrote 1 hint " in wrote("255.png")  # another picture, restored with an older date


def test_patterns_and_the_home_folder(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shells of Windows expand neither; a file whose name looks like a pattern is that file."""
    write_image(tree / "a[1].png", photo())
    assert run("canny", tree / "*.png", "--output", tmp_path / "all") == 0
    assert files(tmp_path / "all") == {"one-canny.png", "a[1]-canny.png"}
    assert run("canny", tree / "a[1].png", "--output", tmp_path / "one") == 0
    assert files(tmp_path / "one") == {"a[1]-canny.png"}
    monkeypatch.setenv("HOME", str(tree))
    monkeypatch.setenv("USERPROFILE", str(tree))
    assert run("canny", "~/one.png", "--output", tmp_path / "home") == 0
    assert files(tmp_path / "home") == {"one-canny.png"}


def test_equal_names_stay_apart(tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_image(tree / "one.bmp", photo(left=10))
    out = tmp_path / "out"
    assert run("canny", tree / "one.bmp", tree / "one.png", tree / "one.png", "--output", out) == 0
    assert files(out) == {"one-bmp-canny.png", "one-png-canny.png"}
    write_image(tree / "sub" / "one.png", photo(left=20))
    assert "both become" in error_of(capsys, "canny", tree / "one.png", tree / "sub" / "one.png", "--output", out)


def test_one_bad_picture_does_not_stop_the_others(
    tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tree / "bad.png").write_bytes(b"<html>")
    error = error_of(capsys, "canny", tree, "--output", tmp_path / "out")
    assert "1 of 3 files" in error
    assert "bad.png" in error
    assert files(tmp_path / "out") == {"one-canny.png", "sub/two-canny.png"}


def test_masks_lie_beside_the_hint(tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mask = np.zeros((48, 65), np.uint8)
    mask[10:20, 10:30] = 255
    write_image(tmp_path / "mask.png", mask)
    out = tmp_path / "out"
    name = "inpaint_only"
    assert run(name, tree / "one.png", "--mask", tmp_path / "mask.png", "--output", out) == 0
    assert files(out) == {f"one-{name}.png", f"one-{name}-mask.png"}
    expected = find(name)(photo(), mask=mask)
    assert np.array_equal(read_image(out / f"one-{name}.png"), expected[..., :3])
    assert np.array_equal(read_mask(out / f"one-{name}-mask.png"), expected[..., 3])
    write_image(tmp_path / "small.png", mask[:8, :8])
    told = error_of(capsys, name, tree / "one.png", "--mask", tmp_path / "small.png", "--output", tmp_path / "none")
    assert "the mask is 8x8, expected the size of" in told and "65x48" in told
    assert "needs --mask" in error_of(capsys, name, tree, "--output", tmp_path / "none")
    assert "takes no mask" in error_of(capsys, "canny", tree, "--mask", tmp_path / "mask.png")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["cany", "{tree}"], "canny"),
        (["canny", "{tree}", "--set", "lowe=3"], "low"),
        (["canny", "{tree}", "--set", "low=nan"], "low"),
        (["canny", "{tree}", "--set", "low"], "name=value"),
        (["canny", "{tree}", "--resolution", "3"], "16 to 8192"),
        (["canny", "{tree}/none.png"], "none.png"),
        (["canny", "{tree}/none.mp4"], "none.mp4"),
        (["canny", "{tree}/empty"], "no pictures"),
        (["canny", "{tree}", "--output", "{tree}"], "output folder"),
        (["canny", "{tree}", "--output", "{tree}/notes.txt/below"], "cannot make the folder"),
        (["densepose", "{tree}"], "dw_openpose_full"),
        (["canny"], "expected a preprocessor"),
        (["canny", "-"], "standard input"),
        (["canny", "{tree}", "--set", "low=1", "--set", "low=2"], "low is said twice"),
        (["canny", "{tree}", "--seed", "5"], "--seed 5 changes nothing"),
        (["canny", "{tree}", "--device", "banana"], "'banana'"),
        (["canny", "{tree}", "--weights", "nowhere"], "--weights"),
        (["none", "{tree}", "--resolution", "32"], "--resolution 32 changes nothing"),
        ([], "expected a preprocessor"),
    ],
)
def test_bad_requests_are_refused(
    tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    (tree / "empty").mkdir()
    given = [each.replace("{tree}", str(tree)) for each in arguments]
    given += [] if "--output" in given else ["--output", str(tmp_path / "out")]
    assert words in error_of(capsys, *given)
    assert not any((tmp_path / "out").rglob("*.png"))


def test_the_list_shows_everything(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--list") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [each.id for each in (*REGISTRY, *ABSENT)]
    assert all(len(line.split()) > 1 for line in lines)
    assert run("--list", "recolor_") == 0
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["recolor_luminance", "ready"], ["recolor_intensity", "ready"],
    ]  # fmt: skip
    assert "zzz" in error_of(capsys, "--list", "zzz")
    assert run("--list", "reference_") == 0
    assert all(" not for units: " in line for line in capsys.readouterr().out.splitlines())


def test_the_list_names_weights_packages_and_licences(tmp_path: Path) -> None:
    from dataclasses import replace

    from controlstack.preprocessors.networks.network import Network, WeightFile
    from controlstack.preprocessors.networks.pool import PlainManager, Pool
    from controlstack.preprocessors.networks.store import Store
    from controlstack.preprocessors.perform import Runtime
    from controlstack.standalone.terminal.availability import state

    runtime = Runtime(store=Store(tmp_path), pool=Pool(PlainManager("cpu")))
    file = WeightFile(name="net.pth", addresses=("https://example.org/net.pth",), licence="MIT", bytes=1_500_000)
    network = Network(id="net", files=(file,), load=str)
    canny = replace(find("canny"), networks=(network,))
    assert state(canny, runtime) == "needs weights: net.pth (1.5 MB); --download gets them [weights: MIT]"
    lacking = replace(canny, networks=(replace(network, packages=("no_such_package",)),))
    assert f"no_such_package: {get_packages()} [weights: MIT]" in state(lacking, runtime)
    (tmp_path / "net.pth").write_bytes(bytes(1_500_000))
    assert state(canny, runtime) == "ready [weights: MIT]"


SLOW = f"""
import importlib.util, sys, time
spec = importlib.util.spec_from_file_location("controlstack", {str(ROOT / "__init__.py")!r})
sys.modules["controlstack"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["controlstack"])
from controlstack.preprocessors import images
from controlstack import cli
encode = images._encode
def slow(*given):
    encode(*given)
    print("encoded", flush=True)
    time.sleep(30)
images._encode = slow
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signal")
def test_an_interrupt_leaves_nothing_half_written(tree: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-c", SLOW, "preprocess", "canny", str(tree), "--output", str(out)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.readline()
        os.kill(process.pid, signal.SIGINT)
        assert process.wait() == 130
        assert process.stderr.read() == "controlstack: interrupted\n"
    assert files(out) == set()


def clip(path: Path, count: int = 11, height: int = 48, width: int = 65) -> np.ndarray:
    from controlstack.standalone.media.videos import write_video

    frames = np.stack([photo(height, width, left=100 + 2 * number) for number in range(count)])
    assert write_video(path, 12.5, iter(frames)) == count
    return frames


@VIDEO
def test_videos_are_written_without_loss(tmp_path: Path) -> None:
    from controlstack.standalone.media.videos import open_video

    frames = clip(tmp_path / "clip.mp4")
    with open_video(tmp_path / "clip.mp4") as video:
        assert (video.width, video.height, video.rate, video.expected) == (65, 48, 12.5, 11)
        assert np.array_equal(np.stack(list(video.frames)), frames)
    assert files(tmp_path) == {"clip.mp4"}


@VIDEO
def test_a_video_becomes_a_video_of_hints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from controlstack.standalone.media.videos import open_video

    frames = clip(tmp_path / "clip.mp4")
    out = tmp_path / "out"
    assert run("canny", tmp_path / "clip.mp4", "--resolution", 32, "--output", out) == 0
    assert files(out) == {"clip-canny.mp4"}
    with open_video(out / "clip-canny.mp4") as video:
        assert np.array_equal(np.stack(list(video.frames)), find("canny")(frames, resolution=32))
    assert run("canny", tmp_path / "clip.mp4", "--resolution", 32, "--output", out, "--resume") == 0
    assert "wrote 0 hints" in capsys.readouterr().out


@VIDEO
def test_a_video_is_made_again_with_other_settings_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clip(tmp_path / "clip.mp4", 3)
    arguments = ("canny", tmp_path / "clip.mp4", "--output", tmp_path / "out", "--resume")
    for more, count in (((), 1), ((), 0), (("--set", "low=30"), 1), (("--set", "low=30"), 0)):
        assert run(*arguments, *more) == 0
        assert f"wrote {count} hint" in capsys.readouterr().out


@VIDEO
def test_a_changing_rate_keeps_its_time(tmp_path: Path) -> None:
    """20 frames in two seconds, then 4 in two: written at one rate, they must last four seconds again."""
    import imageio_ffmpeg
    from controlstack.standalone.media.videos import open_video

    clip(tmp_path / "even.mp4", 50)  # four seconds
    chosen = "select='lt(t,2)+not(mod(n,6))*gte(t,2)'"
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", "even.mp4", "-vf", chosen, "-fps_mode", "vfr"]
    subprocess.run([*command, "-bf", "0", "clip.mp4"], cwd=tmp_path, check=True)
    assert run("canny", tmp_path / "clip.mp4", "--output", tmp_path / "out") == 0
    with open_video(tmp_path / "out" / "clip-canny.mp4") as video:
        lasts = len(list(video.frames)) / video.rate
    assert lasts == pytest.approx(4, abs=0.3)


@VIDEO
def test_a_video_becomes_a_folder_and_is_resumed_by_frames(tmp_path: Path) -> None:
    frames = clip(tmp_path / "clip.mp4", 3)
    folder = tmp_path / "out" / "clip-canny"
    arguments = ("canny", tmp_path / "clip.mp4", "--frames", "--resume", "--output", tmp_path / "out")
    assert run(*arguments) == 0
    assert files(folder) == {"000001.png", "000002.png", "000003.png"}
    assert np.array_equal(read_image(folder / "000002.png"), find("canny")(frames[1]))
    (folder / "000002.png").unlink()
    stamp = (folder / "000003.png").stat().st_mtime_ns
    assert run(*arguments) == 0
    assert (folder / "000002.png").is_file()
    assert (folder / "000003.png").stat().st_mtime_ns == stamp


@VIDEO
@pytest.mark.parametrize("stop", [KeyboardInterrupt, RuntimeError])
def test_a_video_that_is_interrupted_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: type[BaseException]
) -> None:
    clip(tmp_path / "clip.mp4", 20)
    original, calls = preprocessing._Worker._hint, iter(range(100))

    def hint(self: object, image: np.ndarray) -> np.ndarray:
        if next(calls) == 1:
            raise stop
        return original(self, image)  # type: ignore[arg-type]

    monkeypatch.setattr(preprocessing._Worker, "_hint", hint)
    arguments = ("canny", tmp_path / "clip.mp4", "--output", tmp_path / "out")
    if stop is KeyboardInterrupt:
        assert run(*arguments) == 130
    else:
        with pytest.raises(stop):
            run(*arguments)
    assert files(tmp_path / "out") == set()


@VIDEO
@pytest.mark.parametrize("content", [b"", b"no video at all", b"\x00\x00\x00\x18ftypmp42"])
def test_bad_videos_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes) -> None:
    (tmp_path / "clip.mp4").write_bytes(content)
    assert "clip.mp4 cannot be read as a video" in error_of(
        capsys, "canny", tmp_path / "clip.mp4", "--output", tmp_path / "out"
    )
    assert files(tmp_path / "out") == set()


def test_videos_without_ffmpeg_say_what_to_install(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    (tmp_path / "clip.mp4").write_bytes(b"x")
    error = error_of(capsys, "canny", tmp_path / "clip.mp4", "--output", tmp_path / "out")
    assert "pip install imageio-ffmpeg" in error


def pose_frame(width: int = 128, height: int = 96) -> dict[str, object]:
    body = [float(value) for number in range(18) for value in (10 + 6 * number, 20 + 3 * number, 1)]
    return {"people": [{"pose_keypoints_2d": body}], "canvas_width": width, "canvas_height": height}


def test_poses_of_a_file_are_drawn(tmp_path: Path) -> None:
    from controlstack.preprocessors.poses.drawing import draw
    from controlstack.preprocessors.poses.points import from_json

    (tmp_path / "pose.json").write_text(json.dumps([pose_frame()]))
    out = tmp_path / "out"
    assert run("openpose", tmp_path / "pose.json", "--output", out) == 0
    assert np.array_equal(read_image(out / "pose-openpose.png"), draw(from_json(pose_frame())))
    assert run("openpose", tmp_path / "pose.json", "--resolution", 192, "--output", out) == 0
    expected = draw(from_json(pose_frame()).scaled(256, 192))
    assert np.array_equal(read_image(out / "pose-openpose.png"), expected)
    assert expected.any()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_poses_of_editors_on_windows_are_read(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "pose.json").write_text(json.dumps([pose_frame()]), encoding=encoding)
    assert run("openpose", tmp_path / "pose.json", "--output", tmp_path / "out") == 0


def test_bad_pose_files_do_not_stop_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "wide.json").write_text(json.dumps([pose_frame()]), encoding="utf-16")
    (tmp_path / "deep.json").write_text("[" * 10_000)
    (tmp_path / "long.json").write_text(json.dumps([pose_frame(1, 16384)]))
    (tmp_path / "good.json").write_text(json.dumps([pose_frame()]))
    given = [tmp_path / f"{name}.json" for name in ("wide", "deep", "long", "good")]
    told = error_of(capsys, "openpose", *given, "--resolution", 512, "--output", tmp_path / "out")
    assert "3 of 4 files could not be used" in told
    assert all(words in told for words in ("UTF-16", "nested too deeply", "512x8388608, more than 64 megapixels"))
    assert files(tmp_path / "out") == {"good-openpose.png"}


def test_what_a_folder_holds_beside_pictures_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "in"
    source.mkdir()
    for name in ("plain.png", "photo.jfif", "old.ppm", "._plain.png", "notes.txt", "more.txt"):
        Image.fromarray(photo()).save(source / name, format="JPEG" if name == "photo.jfif" else "PNG")
    assert run("invert", source, "--output", tmp_path / "out") == 0
    assert "wrote 2 hints" in (told := capsys.readouterr().out)
    assert "left out 2 .txt and 1 .ppm" in told
    assert files(tmp_path / "out") == {"plain-invert.png", "photo-invert.png"}
    (source / "broken.png").write_bytes(b"")
    assert "left out 2 .txt and 1 .ppm" in error_of(capsys, "invert", source, "--output", tmp_path / "out")
    assert "reference" in error_of(capsys, "reference_only", source, "--output", tmp_path / "out")


def test_long_names_are_written_or_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "in"
    source.mkdir()
    for name in ("aaa", "m" * 240, "n" * 251, "zzz"):
        write_image(source / f"{name}.png", photo())
    told = error_of(capsys, "invert", source, "--output", tmp_path / "out")
    assert "1 of 4 files could not be used" in told and "name too long" in told
    assert files(tmp_path / "out") == {"aaa-invert.png", f"{'m' * 240}-invert.png", "zzz-invert.png"}


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("openpose", "<html>", "is no JSON"),
        ("openpose", "[]", "has no frames"),
        ("openpose", '[{"canvas_width": 0}]', "canvas_width"),
        ("canny", json.dumps(pose_frame()), "draws no poses"),
    ],
)
def test_bad_pose_files_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, content: str, words: str
) -> None:
    (tmp_path / "pose.json").write_text(content)
    error = error_of(capsys, name, tmp_path / "pose.json", "--output", tmp_path / "out")
    assert words in error
    assert "pose.json" in error


def test_poses_are_written_as_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found by a stand-in for a network, drawn from what was found, and drawn again from the file."""
    from dataclasses import replace

    from controlstack.preprocessors import registry
    from controlstack.preprocessors.poses.points import from_json

    poses = from_json(pose_frame(65, 48))
    found = replace(find("openpose"), networks=(), run=lambda images, **_: [poses for _ in images])
    monkeypatch.setattr(registry, "REGISTRY", (found, *registry.REGISTRY))
    write_image(tmp_path / "photo.png", photo())
    out = tmp_path / "out"
    assert run("openpose", tmp_path / "photo.png", "--poses", "--output", out) == 0
    assert files(out) == {"photo-openpose.png", "photo-openpose.json"}
    (frame,) = json.loads((out / "photo-openpose.json").read_text())
    assert from_json(frame) == poses
    (out / "photo-openpose.json").unlink()
    assert run("openpose", tmp_path / "photo.png", "--poses", "--resume", "--output", out) == 0
    assert (out / "photo-openpose.json").is_file()
    assert run("openpose", out / "photo-openpose.json", "--output", tmp_path / "again") == 0
    again = read_image(tmp_path / "again" / "photo-openpose-openpose.png")
    assert np.array_equal(again, read_image(out / "photo-openpose.png"))


@VIDEO
def test_poses_of_a_video_are_one_file_a_frame(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from dataclasses import replace

    from controlstack.preprocessors import registry
    from controlstack.preprocessors.poses.points import from_json

    poses = from_json(pose_frame(65, 48))
    found = replace(find("openpose"), networks=(), run=lambda images, **_: [poses for _ in images])
    monkeypatch.setattr(registry, "REGISTRY", (found, *registry.REGISTRY))
    clip(tmp_path / "clip.mp4", 2)
    out = tmp_path / "out"
    assert run("openpose", tmp_path / "clip.mp4", "--poses", "--frames", "--output", out) == 0
    assert files(out / "clip-openpose") == {f"00000{number}.{kind}" for number in (1, 2) for kind in ("png", "json")}
    assert "use --frames" in error_of(capsys, "openpose", tmp_path / "clip.mp4", "--poses", "--output", out)


def test_poses_are_asked_of_pose_preprocessors(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "finds no poses" in error_of(capsys, "canny", tree, "--poses")


def test_get_fetches_weights_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What has no weights is there at once; what is nowhere is named, before anything is fetched."""
    monkeypatch.setenv("CONTROLSTACK_MODELS", str(tmp_path))
    assert main(["get", "canny"]) == 0
    assert capsys.readouterr().out == "canny: its weights are there\n"
    assert main(["get", "canny", "cany"]) == 2
    assert "did you mean canny" in capsys.readouterr().err
    assert files(tmp_path) == set()


@pytest.mark.parametrize("name", ["moving.gif", "moving.webp", "moving.png", "pages.tif"])
def test_every_frame_of_an_animation_becomes_a_hint(name: str, tmp_path: Path) -> None:
    frames = [Image.fromarray(photo(left=left)) for left in (0, 60, 120)]
    lossless = {"lossless": True} if name.endswith("webp") else {}
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], **lossless)
    frames[0].save(tmp_path / "still.png")
    out = tmp_path / "out"
    assert run("invert", tmp_path / name, tmp_path / "still.png", "--output", out) == 0
    stem = name.partition(".")[0]
    assert files(out) == {"still-invert.png", *(f"{stem}-invert/{number:06d}.png" for number in (1, 2, 3))}
    second = read_image(out / f"{stem}-invert" / "000002.png").astype(int)
    error = np.abs(second - (255 - photo(left=60).astype(int))).mean()
    assert error < (12 if name.endswith("gif") else 0.01)  # a GIF has 256 colours
    stamp = (out / f"{stem}-invert" / "000002.png").stat().st_mtime_ns
    (out / f"{stem}-invert" / "000003.png").unlink()
    assert run("invert", tmp_path / name, "--output", out, "--resume") == 0
    assert (out / f"{stem}-invert" / "000003.png").is_file()
    assert (out / f"{stem}-invert" / "000002.png").stat().st_mtime_ns == stamp


def test_frames_and_folders_of_poses_are_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """ComfyUI writes a list of frames; others a file each, in folders without any picture."""

    def frame(x: int) -> dict[str, object]:
        points = [x, 10, 1.0, x, 40, 1.0] + [0, 0, 0] * 16
        return {"people": [{"pose_keypoints_2d": points}], "canvas_width": 64, "canvas_height": 48}

    folder = tmp_path / "poses"
    folder.mkdir()
    (folder / "many.json").write_text(json.dumps([frame(10), frame(50)]))
    (folder / "one.json").write_text(json.dumps(frame(30)))
    out = tmp_path / "out"
    assert run("openpose_full", folder, "--output", out) == 0
    assert files(out) == {
        "one-openpose_full.png", "many-openpose_full/000001.png", "many-openpose_full/000002.png",
    }  # fmt: skip
    first, second = (read_image(out / "many-openpose_full" / f"00000{k}.png") for k in (1, 2))
    assert first[:, :30].any()
    assert not first[:, 40:].any()
    assert second[:, 40:].any()
    (folder / "many.json").write_text("[]")
    assert "has no frames" in error_of(capsys, "openpose_full", folder / "many.json", "--output", out)


def test_hints_on_which_nothing_is_seen_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nobody on a picture is no error, but who draws with a black hint wants to know."""
    write_image(tmp_path / "wall.png", np.full((48, 64, 3), 128, np.uint8))
    write_image(tmp_path / "photo.png", photo())
    empty = {"people": [], "canvas_width": 64, "canvas_height": 48}
    (tmp_path / "nobody.json").write_text(json.dumps(empty))
    assert run("canny", tmp_path / "wall.png", tmp_path / "photo.png", "--output", tmp_path / "out") == 0
    said = capsys.readouterr().out
    assert "WARNING: canny found nothing, so the hint is black, in wall-canny.png" in said
    assert "photo" not in said
    assert run("openpose_full", tmp_path / "nobody.json", "--output", tmp_path / "out") == 0
    assert "black, in nobody-openpose_full.png" in capsys.readouterr().out


@pytest.mark.skipif(os.name != "posix", reason="links need rights elsewhere")
def test_what_is_no_file_is_told(tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tree / "gone.png").symlink_to(tree / "nowhere.png")
    os.mkfifo(tree / "pipe.png")
    assert run("canny", tree, "--output", tmp_path / "out") == 0
    assert "left out 1 .txt and 1 broken link and 1 device or pipe" in capsys.readouterr().out
