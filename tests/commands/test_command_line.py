"""The command line: what it writes, and what it refuses before it draws."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from controlstack.cli import main
from controlstack.pipelines.tiny_world import BASE, CONTROLS, IMAGES
from PIL import Image

CANNY = f"image={IMAGES / 'scene-1.png'},preprocessor=canny,low=50,high=100,model={CONTROLS / 'canny.safetensors'}"
SMALL = ["--steps", "2", "--width", "64", "--height", "64", "--scheduler", "ddim", "--guidance", "2"]


def test_a_folder_that_cannot_be_made_is_said_before_the_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    for command in (["demo"], ["generate", "--base", str(BASE), *SMALL]):
        assert main([*command, "--output", str(tmp_path / "file" / "folder")]) == 2
        captured = capsys.readouterr()
        assert "cannot make the folder" in captured.err
        assert "Loading" not in captured.out


def test_generate_writes_pictures_hints_and_what_made_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    units = ["--unit", f"{CANNY},end=0.5", "--unit", f"{CANNY},weight=0"]
    code = main(["generate", "--base", str(BASE), *units, *SMALL, "--batch", "2", "--output", str(tmp_path / "out")])
    out = capsys.readouterr().out
    assert code == 0
    assert "fires on 1 of 2 steps" in out
    assert "WARNING" in out
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"00001.png", "00002.png", "00001-hint-1.png", "00001-hint-2.png", "00001-sheet.png"}
    told = json.loads(Image.open(tmp_path / "out" / "00002.png").text["controlstack"])  # type: ignore[attr-defined]
    assert (told["seed"], told["units"][0]["fired"]) == (1, 1)


@pytest.mark.parametrize(
    ("unit", "words"),
    [
        (CANNY.replace("scene-1.png", "missing.png"), "missing.png"),
        (CANNY.replace("/scene-1.png", ""), "images"),
        (CANNY.replace("canny.safetensors", "none.safetensors"), "no model file"),
        (f"{CANNY},weight=nan", "finite"),
        (f"{CANNY},weight=much", "expected a number"),
        (f"{CANNY},start=0.8,end=0.2", "after its end"),
        (f"{CANNY},mode=strong", "balanced"),
        (f"{CANNY},wieght=1", "weight"),
        (CANNY.replace("low=50", "low=900"), "1 to 255"),
        (CANNY.replace("=canny,", "=cany,"), "canny"),
        (f"{CANNY},block_weights=1;2", "13 blocks"),
        (f"{CANNY},pixel_perfect=ture", "yes, true"),
        (f"{CANNY},resolution=-5", "16 to 8192"),
        (f"{CANNY},resolution=inf", "finite"),
        (f"{CANNY},resolution=100.7", "whole number"),
        ("weight=1", "has no image"),
    ],
)
def test_bad_units_are_one_line_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], unit: str, words: str
) -> None:
    code = main(["generate", "--base", str(BASE), "--unit", unit, *SMALL, "--output", str(tmp_path / "out")])
    error = capsys.readouterr().err
    assert code == 2
    assert words in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--base", "nowhere"], "no checkpoint"),
        (["--base", str(BASE), "--width", "511"], "multiple of 8"),
        (["--base", str(BASE), "--scheduler", "eulr"], "euler"),
        (["--base", str(BASE), "--eta", "0.5"], "'unipc' has none"),
        (["--base", str(BASE), "--seed", "99999999999999999999"], "seed"),
        (["--base", str(BASE), "--image", str(IMAGES / "scene-1.png"), "--strength", "0.5"], "1 or more"),
        (["--base", str(BASE), "--prompt-kind", "automatic"], "--captioner"),
        (["--base", str(BASE), "--prompt-kind", "user"], "--prompt"),
    ],
)
def test_bad_requests_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert main(["generate", *arguments, "--steps", "1", "--output", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_preprocess_and_inspect(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["preprocess", "canny", str(IMAGES), "--set", "low=50", "--output", str(tmp_path)]) == 0
    assert len(list(tmp_path.glob("*-canny.png"))) == len(list(IMAGES.glob("*.png")))
    capsys.readouterr()
    assert main(["inspect", str(CONTROLS / "canny.safetensors"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["family"], told["missing"]) == ("ControlNet", [])


def test_an_interrupt_is_exit_code_130(monkeypatch: pytest.MonkeyPatch) -> None:
    from controlstack.standalone import demo

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "run_demo", interrupted)
    assert main(["demo"]) == 130
