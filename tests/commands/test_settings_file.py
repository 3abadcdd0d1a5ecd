"""Settings files: every run writes one, a run from it draws the same, and words on the command line count more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from controlstack.cli import _parse, main
from controlstack.core.errors import FileError
from controlstack.pipelines.tiny_world import CONTROLS, IMAGES
from controlstack.preprocessors.images import read_image
from controlstack.standalone.terminal.again import draw_again
from controlstack.standalone.units import read_pairs

UNIT = f"image={IMAGES / 'scene-1.png'},preprocessor=canny,low=50,high=100,model={CONTROLS / 'canny.safetensors'}"
SMALL = ["--steps", "2", "--width", "64", "--height", "64", "--scheduler", "ddim", "--guidance", "2"]


def parse(file: Path, text: str, *words: str) -> Any:
    file.write_text(text, encoding="utf-8")
    return _parse(["generate", "--settings", str(file), *words])


def test_a_run_from_its_own_settings_draws_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(IMAGES.parent)
    words = [
        "--prompt",
        'a (red:1.2) "star" \\ ü',
        "--hires",
        "1.5",
        "--clip-skip",
        "2",
        "--unit",
        f"{UNIT},weight=0.7",
    ]
    first = tmp_path / "first"
    assert main(["generate", "--base", "base", *words, *SMALL, "--output", str(first)]) == 0
    monkeypatch.chdir(tmp_path)
    file = first / "00001-settings.toml"
    assert main(["generate", "--settings", str(file), "--output", str(tmp_path / "second")]) == 0
    drawn = [read_image(tmp_path / name / "00001.png") for name in ("first", "second")]
    assert drawn[0].shape == (96, 96, 3) and np.array_equal(*drawn)
    draw_again(first / "00001.png", tmp_path / "again")
    assert np.array_equal(read_image(tmp_path / "again" / "00001.png"), drawn[0])
    assert file.read_text(encoding="utf-8") == (tmp_path / "second" / file.name).read_text(encoding="utf-8")


def test_what_is_said_counts_more_than_the_file(tmp_path: Path) -> None:
    text = 'base = "x"\nsteps = 30\nseed = -1\nprompt = ["a", "b"]\nat-once = 2\nlora = ["d.pt:0.5"]\nimage = "file"\n'
    text += '[[unit]]\nimage = "i"\n'
    args = parse(tmp_path / "s.toml", text, "--steps", "20", "--prompt", "c", "--image", "said")
    assert (args.steps, args.prompt, args.base, args.at_once) == (20, ["c"], Path("x"), 2)
    assert (args.lora, args.unit, args.seed) == (["d.pt:0.5"], ["image=i"], -1)
    assert args.image == Path("said")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("stepz = 3", "did you mean steps"),
        ("settings = 'a.toml'", "which no settings have|did you mean"),
        ("steps = ", "is no TOML"),
        ("[base]\nx = 1", "tables are units"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(FileError, match=reason):
        parse(tmp_path / "s.toml", text)


def test_a_value_that_no_option_takes_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(tmp_path / "s.toml", 'dtype = "fp8"')
    assert "--dtype" in capsys.readouterr().err


def test_a_run_without_base_says_what_to_give(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate"]) == 2
    assert "--base" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (f"a = {'[' * 100_000}", "is nested too deeply"),
        (f"seed = {'9' * 5000}", "is no TOML"),
        ("steps = [1, 2]", "has a list as 'steps', expected one value"),
        ("clip_skip = 1\nclip-skip = 2", "says 'clip_skip' and 'clip-skip', which are the same"),
    ],
)
def test_no_settings_are_lost_in_silence_or_end_in_a_traceback(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(FileError, match=reason):
        parse(tmp_path / "settings.toml", text)


def test_pictures_and_options_may_be_lists_and_tables(tmp_path: Path) -> None:
    unit = 'image = ["a.png", "b,c=d.png"]\nmodel = "m"\noptions = {union_control_type = "depth", share = 0.5}\n'
    (said,) = parse(tmp_path / "settings.toml", f"[[unit]]\n{unit}").unit
    found = read_pairs(said)
    assert found == {"image": "a.png|b,c=d.png", "model": "m", "options": "union_control_type=depth; share=0.5"}
