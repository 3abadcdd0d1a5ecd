"""The command line: what it writes, and what it refuses before it draws."""

from __future__ import annotations

import itertools
import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from controlstack import __version__
from controlstack.cli import _parser, main
from controlstack.core.errors import UnitError
from controlstack.core.modes import ResizeMode
from controlstack.core.resize import fit
from controlstack.pipelines.sheets import sheet
from controlstack.pipelines.tiny_world import BASE, CONTROLS, IMAGES
from controlstack.preprocessors.images import read_image, write_image
from controlstack.standalone.asked import fitting_size
from controlstack.standalone.record import next_number
from controlstack.standalone.units import parse_unit
from PIL import Image

PLAIN = f"image={IMAGES / 'scene-1.png'},model={CONTROLS / 'canny.safetensors'}"
CANNY = f"image={IMAGES / 'scene-1.png'},preprocessor=canny,low=50,high=100,model={CONTROLS / 'canny.safetensors'}"
SMALL = ["--seed", "0", "--steps", "2", "--width", "64", "--height", "64", "--scheduler", "ddim", "--guidance", "2"]


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
    assert names == {
        "00001.png", "00002.png", "00001-hint-1.png", "00001-hint-2.png", "00001-sheet.png",
        "00001-settings.toml",
    }  # fmt: skip
    told = json.loads(Image.open(tmp_path / "out" / "00002.png").text["controlstack"])  # type: ignore[attr-defined]
    assert (told["seed"], told["units"][0]["fired"]) == (1, 1)


def _run(folder: Path, *more: str) -> list[dict[str, Any]]:
    """What the pictures say that a run has written, each with the picture itself."""
    before = set(folder.glob("0*.png"))
    assert main(["generate", "--base", str(BASE), "--scheduler", "ddim", "--output", str(folder), *more]) == 0
    fresh = sorted(path for path in set(folder.glob("0*.png")) - before if path.stem.isdecimal())
    pictures = [Image.open(path) for path in fresh]
    return [{**json.loads(each.text["controlstack"]), "picture": np.asarray(each)} for each in pictures]  # type: ignore[attr-defined]


def test_each_prompt_gets_a_picture(tmp_path: Path) -> None:
    both = _run(tmp_path, *SMALL, "--prompt", "a red star", "--prompt", "a blue disc", "--at-once", "1")
    second = _run(tmp_path, *SMALL, "--prompt", "a blue disc", "--seed", "1")
    assert [(each["prompt"], each["seed"]) for each in both] == [("a red star", 0), ("a blue disc", 1)]
    assert (both[1]["picture"] == second[0]["picture"]).all()
    assert (both[0]["picture"] != both[1]["picture"]).any()


def test_pictures_of_a_batch_do_not_depend_on_how_many_are_drawn_at_once(tmp_path: Path) -> None:
    units = ("--unit", CANNY, "--batch", "3", "--prompt", "a star")
    together, one_by_one = (_run(tmp_path, *SMALL, *units, "--at-once", count) for count in ("3", "2"))
    for ours, theirs in zip(together, one_by_one, strict=True):
        assert (ours["seed"], ours["units"]) == (theirs["seed"], theirs["units"])
        assert np.abs(ours["picture"].astype(int) - theirs["picture"]).max() <= 1
    assert (tmp_path / "00004-sheet.png").exists() and (tmp_path / "00004-hint-1.png").exists()


def test_the_seed_is_by_chance_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ("--steps", "1", "--width", "64", "--height", "64")
    seeds = [_run(tmp_path, *small, *more)[0]["seed"] for more in ((), ("--seed", "-1"))]
    assert len({*seeds, 0}) == 3
    assert all(f"seed {seed}\n" in capsys.readouterr().out for seed in seeds[:1])


def test_the_size_is_the_bases_or_the_pictures(tmp_path: Path) -> None:
    Image.new("RGB", (90, 60), "red").save(tmp_path / "start.jpg")
    plain = _run(tmp_path / "out", "--steps", "1")[0]
    started = _run(tmp_path / "out", "--steps", "2", "--image", str(tmp_path / "start.jpg"))[0]
    assert plain["picture"].shape == (128, 128, 3)
    assert started["picture"].shape == (64, 88, 3)  # 60 and 90, to whole latents


@pytest.mark.parametrize(
    ("start", "asked", "expected"),
    [
        (None, (None, None), (512, 512)),
        (None, (640, None), (640, 512)),
        ((768, 512), (None, None), (768, 512)),
        ((4000, 3000), (None, None), (680, 512)),
        ((4000, 3000), (400, None), (400, 304)),
        ((4000, 3000), (None, 300), (400, 300)),
        ((4000, 3000), (64, 128), (64, 128)),
        ((3, 3), (None, None), (8, 8)),
    ],
)
def test_a_size_that_was_not_said(start: Any, asked: tuple[Any, Any], expected: tuple[int, int]) -> None:
    picture = None if start is None else np.zeros((start[1], start[0], 3), np.uint8)
    assert fitting_size(512, picture, *asked) == expected


def test_numbers_go_on_after_our_own_pictures_alone(tmp_path: Path) -> None:
    for name in ("²", "²³", "20231231235959", "7", "00012-sheet", "00011", "١٢٣٤٥"):
        (tmp_path / f"{name}.png").write_bytes(b"")
    assert next_number(tmp_path) == 12
    assert next_number(tmp_path / "nowhere") == 1


def test_a_mask_says_what_is_redrawn(tmp_path: Path) -> None:
    mask = np.zeros((128, 128), np.uint8)
    mask[:, 64:] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    image = IMAGES / "scene-1.png"
    given = ("--steps", "2", "--image", str(image), "--mask", str(tmp_path / "mask.png"), "--unit", CANNY)
    drawn = _run(tmp_path / "out", *given)[0]["picture"]
    original = np.asarray(Image.open(image).convert("RGB"))
    assert (drawn[:, :64] == original[:, :64]).all()
    assert (drawn[:, 64:] != original[:, 64:]).any()


def test_the_version_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"controlstack {__version__}\n"


@pytest.mark.parametrize(
    ("unit", "words"),
    [
        (CANNY.replace("scene-1.png", "missing.png"), "missing.png"),
        (CANNY.replace("/scene-1.png", "/scene-9.png"), "scene-9"),
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
        ("image=a,b=c.png,model=x", "quotation marks"),
        (CANNY.replace("=canny,", "=reference_only,"), "choose it as the model"),
        (f"{PLAIN},preprocessor=inpaint_only,mask={IMAGES / 'scene-1.png'}", "inpaint=FILE"),
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
        (["--base", str(BASE), "--prompt", "a", "--prompt", "b", "--batch", "3"], "2 prompts for 3 pictures"),
        (["--base", str(BASE), "--at-once", "0"], "--at-once is 0"),
        (["--base", str(BASE), "--mask", str(IMAGES / "scene-1.png")], "--image"),
        (["--base", str(BASE), "--width", "0"], "width is 0"),
        (["--base", str(BASE), "--batch", "100000", "--at-once", "100000"], "megapixels"),
        (["--base", str(BASE), "--strength", "0.5"], "add --image"),
        (["--base", str(BASE), "--captioner", "nowhere"], "--prompt-kind automatic"),
        (["--base", str(BASE), "--hires-steps", "2"], "add --hires"),
        (["--base", str(BASE), "--resume"], "--resume skips"),
        (["--base", str(BASE), "--prediction", "epsilon"], "says itself"),
        (["--base", str(IMAGES / "scene-1.png")], "no checkpoint by its name"),
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


def test_more_steps_than_noise_levels_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "--base", str(BASE), "--steps", "1001", "--output", str(tmp_path / "out")]) == 2
    assert "expected 1 to 1000" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text",
    [
        "image=a.png, model=c.safetensors, preprocessor=canny",
        "image=a.png,model=c.safetensors,preprocessor=canny,",
        "image='a.png',model=\"c.safetensors\",preprocessor = canny",
    ],
)
def test_blanks_commas_and_quotation_marks_around_values_are_no_part_of_them(text: str) -> None:
    unit = parse_unit(text)
    assert (unit.image, unit.model, unit.preprocessor) == (Path("a.png"), "c.safetensors", "canny")


def test_a_value_in_quotation_marks_holds_anything() -> None:
    assert parse_unit('image="a, b=c.png",model=c.safetensors').image == Path("a, b=c.png")


@pytest.mark.parametrize("at_once", [2, 3])
def test_each_picture_of_a_batch_has_its_own_hint(tmp_path: Path, at_once: int) -> None:
    """However many are drawn together, also where a picture is drawn again from its record."""
    names = [IMAGES / "scene-1.png", IMAGES / "scene-2.png", IMAGES / "scene-1.png"]
    unit = CANNY.replace(str(names[0]), "|".join(map(str, names)))
    drawn = _run(tmp_path / "out", *SMALL, "--batch", "3", "--at-once", str(at_once), "--unit", unit)
    for k, each in enumerate(drawn):
        alone = CANNY.replace(str(names[0]), str(names[k]))
        expected = _run(tmp_path / str(k), *SMALL, "--seed", str(k), "--unit", alone)[0]["picture"]
        assert np.abs(each["picture"].astype(int) - expected).max() <= 1
    assert main(["again", str(tmp_path / "out" / "00003.png"), "--output", str(tmp_path / "again")]) == 0
    last = sorted((tmp_path / "again").glob("0*.png"))[-1]
    assert np.array_equal(read_image(last), drawn[2]["picture"])


@pytest.mark.parametrize("batch", [1, 2])
def test_hints_that_pictures_cannot_share_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], batch: int
) -> None:
    scene = str(IMAGES / "scene-1.png")
    unit = CANNY.replace(scene, "|".join([scene] * 3))
    out = str(tmp_path / "out")
    assert main(["generate", "--base", str(BASE), "--unit", unit, *SMALL, "--batch", str(batch), "--output", out]) == 2
    assert f"unit 1 (canny) has 3 hints for {batch} picture" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ("enabled=no", "it is off"),
        ("weight=0", "its weight is 0"),
        ("mask={black}", "its effect mask is black"),
        ("start=1", "no step lies in its range, 1 to 1"),
    ],
)
def test_a_unit_that_never_acted_says_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: str, reason: str
) -> None:
    write_image(tmp_path / "black.png", np.zeros((64, 64), np.uint8))
    _run(tmp_path / "out", *SMALL, "--unit", f"{CANNY},{more.format(black=tmp_path / 'black.png')}")
    assert f"it never acted: {reason}" in capsys.readouterr().out


def test_a_strength_that_changes_nothing_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _run(tmp_path / "out", *SMALL, "--unit", f"{CANNY},delta_strength=3")
    assert "delta_strength=3 changes nothing" in capsys.readouterr().out


def test_what_a_preprocessor_does_not_read_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _run(tmp_path / "out", *SMALL, "--unit", f"{PLAIN},seed=5,resolution=64")
    told = capsys.readouterr().out
    assert "WARNING: " in told and "none uses no random numbers, so seed=5 changes nothing" in told
    assert "none works at the picture's own size, so resolution=64 changes nothing" in told


def test_half_precision_on_a_cpu_is_drawn_without_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _run(tmp_path / "out", *SMALL, "--dtype", "bf16", "--device", "cpu")
    assert "float16" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--port", "99999999"], "--port is 99999999, expected 1 to 65535"),
        (["--port", "-1"], "--port is -1"),
        (["--largest-upload", "0"], "--largest-upload is 0"),
    ],
)
def test_a_page_with_impossible_numbers_is_refused(
    capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert main(["serve", *arguments]) == 2
    assert words in capsys.readouterr().err


def test_preprocess_takes_a_folder(tmp_path: Path) -> None:
    assert main(["preprocess", "canny", str(IMAGES), "--set", "low=50", "--output", str(tmp_path)]) == 0
    assert len(list(tmp_path.glob("*-canny.png"))) == len(list(IMAGES.glob("*.png")))


def test_an_interrupt_is_exit_code_130(monkeypatch: pytest.MonkeyPatch) -> None:
    from controlstack.standalone.terminal import demo

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "run_demo", interrupted)
    assert main(["demo"]) == 130


def test_the_sheet_shows_input_fitted_hint_and_mask(tmp_path: Path) -> None:
    """What a model reads is cut to the picture's shape, and that is what people look for when a hint is off."""
    wide, mask, out = tmp_path / "wide.png", tmp_path / "mask.png", tmp_path / "out"
    scene = np.asarray(Image.open(IMAGES / "scene-1.png").convert("RGB"))
    write_image(wide, np.concatenate([scene, scene[:, ::-1]], axis=1))
    write_image(mask, np.full((64, 64), 255, np.uint8))
    unit = f"image={wide},preprocessor=invert,model={CONTROLS / 'canny.safetensors'},mask={mask}"
    assert main(["generate", "--base", str(BASE), "--unit", unit, *SMALL, "--output", str(out)]) == 0
    fitted = fit(torch.from_numpy(255 - read_image(wide)).permute(2, 0, 1)[None] / 255, (64, 64), ResizeMode.CROP)
    hint = (fitted[0].permute(1, 2, 0) * 255).round().byte().numpy()
    white = np.full((64, 64, 3), 255, np.uint8)
    drawn = read_image(out / "00001.png")
    expected = sheet([[("input 1", read_image(wide)), ("hint 1", hint), ("mask 1", white)], [("seed 0", drawn)]], 256)
    assert np.array_equal(read_image(out / "00001-sheet.png"), expected)


COMMANDS = (
    "demo", "generate", "again", "preprocess", "serve", "get", "inspect", "units", "train", "evaluate", "study",
    "reproduce", "transfer", "tiny",
)  # fmt: skip


@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_defaults_and_two_examples_that_are_right(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([name, "--help"])
    told = capsys.readouterr().out
    assert stop.value.code == 0
    examples = told.partition("examples:\n")[2].replace("\\\n", " ").splitlines()
    commands = [shlex.split(line) for line in examples if line.startswith("  controlstack")]
    assert len(commands) == 2
    for command in commands:
        assert callable(_parser().parse_args(command[1:]).run)
        for text in (word for before, word in itertools.pairwise(command) if before == "--unit"):
            assert parse_unit(text).model
    own = _parser().parse_args(commands[0][1:] if command[1] == name else [name])
    for option, value in vars(own).items():
        if f"--{option.replace('_', '-')}" in told and isinstance(value, (int, float)) and not isinstance(value, bool):
            assert "(default: " in told.partition(f"--{option.replace('_', '-')} ")[2]


def test_every_command_chooses_its_device_alike() -> None:
    given = (["generate", "--base", "x"], ["preprocess", "canny"], ["serve"], ["evaluate"])
    assert {_parser().parse_args(words).device for words in given} == {"auto"}


LIGHT = """
import importlib.util, sys
root, *arguments = sys.argv[1:]
spec = importlib.util.spec_from_file_location("controlstack", root + "/__init__.py", submodule_search_locations=[root])
sys.modules["controlstack"] = package = importlib.util.module_from_spec(spec)
spec.loader.exec_module(package)
from controlstack.cli import main
try:
    code = main(arguments)
except SystemExit as stop:
    code = stop.code
heavy = [name for name in ("torch", "diffusers", "transformers", "cv2") if name in sys.modules]
print("code", code, "loaded", heavy)
"""


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--version"], 0),
        (["generate", "--help"], 0),
        (["preprocess", "--list"], 0),
        (["preprocess", "--list", "pose"], 0),
        (["preprocess", "canny", "nowhere.png"], 2),
        (["preprocess", "cany", "nowhere.png"], 2),
        (["inspect", "nowhere.safetensors"], 2),
        (["again", "nowhere.png"], 2),
        (["generate", "--base", "nowhere"], 2),
        (["generate", "--base", str(BASE), "--unit", CANNY.replace("scene-1", "scene-9")], 2),
        (["generate", "--base", str(BASE), "--unit", CANNY.replace("canny.safetensors", "cany.safetensors")], 2),
        (["generate", "--base", str(BASE), "--unit", "preprocessor=canny"], 2),
        (["get", "cany"], 2),
    ],
)
def test_what_needs_no_network_waits_for_none(arguments: list[str], code: int, tmp_path: Path) -> None:
    """torch alone takes seconds to import, and a wrong path is known before."""
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-c", LIGHT, str(root), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.stdout.splitlines()[-1] == f"code {code} loaded []", done.stderr


def test_the_kinds_of_a_union_have_a_short_name() -> None:
    unit = "image=a.png,model=u.safetensors,preprocessor=canny,low=80"
    long = parse_unit(f"{unit},options=union_control_type=depth:1+tile:0.5")
    assert parse_unit(f"{unit},types=depth:1+tile:0.5") == long
    beside = parse_unit("image=a.png,model=u.safetensors,options=structure=2,types=depth")
    assert beside.options == {"structure": 2, "union_control_type": "depth"}


def test_kinds_that_are_said_twice_are_refused() -> None:
    with pytest.raises(UnitError, match="said twice, as types and as union_control_type: leave one of them out"):
        parse_unit("image=a.png,model=u.safetensors,types=depth,options=union_control_type=canny")
