"""What a command prints: one line of any error, printable, on any terminal, into any file, for whom it may concern."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from controlstack.cli import main
from controlstack.pipelines.tiny_world import BASE, CONTROLS, IMAGES

TESTS = Path(__file__).resolve().parents[1]
PROGRAM = """
import sys
sys.path.insert(0, sys.argv.pop(1))
import conftest
from controlstack.cli import main
sys.exit(main(sys.argv[1:]))
"""
FULL = Path("/dev/full")  # a file in which no byte has room
RED = "\x1b[31m"
SCENE = IMAGES / "scene-1.png"


def _start(words: list[str], **options: object) -> subprocess.Popen[bytes]:
    told = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.Popen([sys.executable, "-c", PROGRAM, str(TESTS), *words], **told)  # type: ignore[call-overload,no-any-return]


def test_a_reader_that_goes_away_is_no_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with _start(["units"], stdout=writing) as process:
        os.close(writing)
        _, told = process.communicate()
    assert (process.returncode, told) == (141, b"")


@pytest.mark.skipif(not FULL.exists(), reason="there is no full device here")
def test_an_output_without_room_is_a_sentence() -> None:
    with FULL.open("wb") as full, _start(["units"], stdout=full) as process:
        _, told = process.communicate()
    assert process.returncode == 2
    assert told.decode().splitlines() == [
        "controlstack: No space left on device: look at the folder, its rights and the free space"
    ]


def test_a_terminal_without_the_letters(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    words = ["preprocess", "invert", str(SCENE), "--output", str(tmp_path / "ö")]
    with _start(words, env=environment) as process:
        said, told = process.communicate()
    assert (process.returncode, told) == (0, b"")
    assert said.decode("ascii").endswith("\\xf6\n")


def test_a_folder_that_is_gone_is_a_sentence(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    code = f"import os; os.chdir({str(gone)!r}); os.rmdir({str(gone)!r})\n{PROGRAM}"
    words = ["generate", "--base", str(BASE)]
    done = subprocess.run([sys.executable, "-c", code, str(TESTS), *words], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert [line.partition(":")[0] for line in done.stderr.splitlines()] == ["controlstack"]


@pytest.mark.parametrize(
    "words",
    [
        ["generate", "--base", f"no{RED}"],
        ["generate", "--base", str(BASE), "--unit", f"image=no{RED}.png,model={CONTROLS / 'canny.safetensors'}"],
        ["generate", "--base", str(BASE), "--unit", f"image={SCENE},model=no{RED}"],
        ["generate", "--base", str(BASE), "--unit", f"image={SCENE},model=x,preprocessor=no{RED}"],
        ["generate", "--base", str(BASE), "--lora", f"no{RED}"],
        ["generate", "--settings", f"no{RED}"],
        ["generate", f"--no{RED}"],
        ["generate", "--steps", f"no{RED}"],
        ["preprocess", "canny", f"no{RED}"],
        ["preprocess", "canny", f"no{RED}", "no*"],
        ["preprocess", f"no{RED}", "no"],
        ["inspect", f"no{RED}"],
        ["again", f"no{RED}"],
        ["get", f"no{RED}/x"],
        ["train", "--base", "no", "--data", f"no{RED}", "--out", "x.safetensors"],
        ["study", f"a=no{RED}", "b=no", "--out", "x.html"],
        [f"no{RED}"],
    ],
    ids=" ".join,
)
def test_a_name_cannot_write_over_the_terminal(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert _code(words) == 2
    line = capsys.readouterr().err
    assert line.endswith("\n")
    assert line[:-1].isprintable()
    assert "\\x1b[31m" in line


def test_nor_can_the_name_of_what_was_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(SCENE, tmp_path / f"a{RED}.png")
    assert (
        main(["preprocess", "threshold", str(tmp_path), "--set", "threshold=255", "--output", str(tmp_path / RED)]) == 0
    )
    told = capsys.readouterr().out
    assert "\\x1b[31m-threshold.png" in told
    assert all(line.isprintable() for line in told.splitlines())


@pytest.mark.parametrize(
    "words",
    [
        ["preprocess", "canny", ""],
        ["preprocess", "canny", str(SCENE), "--output", " "],
        ["generate", "--base", ""],
        ["generate", "--base", str(BASE), "--image", ""],
        ["generate", "--base", str(BASE), "--output", ""],
        ["inspect", ""],
        ["train", "--base", str(BASE), "--data", "x", "--out", ""],
    ],
    ids=" ".join,
)
def test_an_empty_name_is_not_the_present_folder(
    words: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    assert "the name of a file or folder is empty" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_home_folder_is_found_inside_a_unit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    shutil.copy(SCENE, tmp_path / "a.png")
    shutil.copy(CONTROLS / "canny.safetensors", tmp_path)
    unit = "image=~/a.png,mask=~/a.png,preprocessor=canny,model=~/canny.safetensors"
    small = ["--steps", "1", "--width", "64", "--height", "64", "--output", str(tmp_path / "out")]
    assert main(["generate", "--base", str(BASE), "--unit", unit, *small]) == 0
    assert main(["generate", "--base", str(BASE), "--unit", unit.replace("a.png", "b.png"), *small]) == 2
    assert main(["preprocess", "canny", "~nobody-of-this-name/a.png"]) == 2
    assert "there is no picture ~nobody-of-this-name/a.png" in capsys.readouterr().err


def _code(words: list[str]) -> int | str | None:
    try:
        return main(words)
    except SystemExit as ended:
        return ended.code
