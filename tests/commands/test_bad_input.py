"""Every bad input ends in one clear line and exit code 2, before any sampling, and leaves nothing written."""

from __future__ import annotations

import json
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from controlstack.cli import BAD_INPUT, main
from controlstack.pipelines.tiny_world import BASE, CONTROLS, IMAGES
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

CANNY = CONTROLS / "canny.safetensors"
SCENE = IMAGES / "scene-1.png"
SMALL = ["--steps", "1", "--width", "64", "--height", "64", "--scheduler", "ddim", "--guidance", "2"]
Change = Callable[[dict[str, Tensor]], dict[str, Tensor]]


def _refused(arguments: list[str], folder: Path, capsys: pytest.CaptureFixture[str], *, talk: bool = False) -> str:
    """Run a command that must fail; its one line. talk: libraries may have said something before it."""
    before = sorted(folder.rglob("*"))
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    *others, line = captured.err.splitlines()
    assert talk or not others
    assert not [other for other in others if other.startswith("controlstack: ")]
    assert line.startswith("controlstack: ")
    assert sorted(folder.rglob("*")) == before
    return line


def _generate(folder: Path, image: Path = SCENE, model: Path = CANNY, more: str = "") -> list[str]:
    unit = f"image={image},preprocessor=canny,model={model}{more}"
    return ["generate", "--base", str(BASE), "--unit", unit, *SMALL, "--output", str(folder / "out")]


def _png(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds no pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b""))
    packed = (
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


PICTURES: dict[str, tuple[bytes | None, str]] = {
    "missing": (None, "there is no picture"),
    "empty": (b"", "is empty"),
    "text": (b"no picture at all", "no picture of a known format"),
    "truncated": (SCENE.read_bytes()[:-200], "damaged or truncated"),
    "above 64 megapixels": (_png(8001, 8000), "64 megapixels"),
}


@pytest.mark.parametrize("kind", PICTURES)
@pytest.mark.parametrize("place", ["image", "mask", "start"])
def test_bad_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, place: str) -> None:
    content, words = PICTURES[kind]
    path = tmp_path / "picture.png"
    if content is not None:
        path.write_bytes(content)
    arguments = {
        "image": _generate(tmp_path, image=path),
        "mask": _generate(tmp_path, more=f",mask={path}"),
        "start": [*_generate(tmp_path), "--image", str(path)],
    }
    assert words in _refused(arguments[place], tmp_path, capsys)


def test_a_folder_in_place_of_a_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    assert "there are no pictures" in _refused(_generate(tmp_path, image=tmp_path / "empty"), tmp_path, capsys)


def test_a_preprocessor_whose_result_is_no_hint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [each.replace("preprocessor=canny", "preprocessor=reference_only") for each in _generate(tmp_path)]
    assert "reference_only: a reference is a control model without a file" in _refused(arguments, tmp_path, capsys)


def _size(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


def _png_of(path: Path, image: np.ndarray) -> Path:
    cv2.imwrite(str(path), image)
    return path


ODD: dict[str, np.ndarray] = {
    "1 channel": np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8),
    "4 channels": np.random.default_rng(0).integers(0, 256, (64, 64, 4), np.uint8),
    "16 bit": np.random.default_rng(0).integers(0, 65536, (64, 64, 3), np.uint16),
    "511x513": np.random.default_rng(0).integers(0, 256, (513, 511, 3), np.uint8),
    "1x1": np.full((1, 1, 3), 200, np.uint8),
}


@pytest.mark.parametrize("kind", ODD)
def test_odd_pictures_are_good_pictures(tmp_path: Path, kind: str) -> None:
    path = _png_of(tmp_path / "picture.png", ODD[kind])
    assert main(_generate(tmp_path, image=path, more=f",mask={path}")) == 0
    assert _size(tmp_path / "out" / "00001.png") == (64, 64)


def test_two_channels_and_a_turned_camera_are_good_pictures(tmp_path: Path) -> None:
    grey = Image.fromarray(ODD["1 channel"])
    alpha = Image.merge("LA", (grey, grey))
    alpha.save(tmp_path / "two.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: turned to the right
    Image.fromarray(ODD["511x513"]).save(tmp_path / "turned.jpg", exif=exif)
    for name, size in (("two.png", (64, 64)), ("turned.jpg", (513, 511))):
        assert main(["preprocess", "invert", str(tmp_path / name), "--output", str(tmp_path / "out")]) == 0
        (hint,) = (tmp_path / "out").rglob(f"{Path(name).stem}*.png")
        assert _size(hint) == size


def _changed(folder: Path, change: Change) -> Path:
    from safetensors import safe_open

    with safe_open(CANNY, "pt") as file:
        metadata = file.metadata()
    save_file(change(load_file(CANNY)), folder / "control.safetensors", metadata)
    return folder / "control.safetensors"


def _nan(state: dict[str, Tensor]) -> dict[str, Tensor]:
    state["middle_block_out.0.weight"][0] = float("nan")
    return state


def _wider(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same network for a base with a wider context."""
    return {
        key: torch.zeros(len(value), 96, dtype=value.dtype)
        if key.endswith(("attn2.to_k.weight", "attn2.to_v.weight"))
        else value
        for key, value in state.items()
    }


def _lora(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {"lora_unet_down_blocks_0_attentions_0_proj_in.lora_up.weight": torch.ones(2, 2)}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_nan, ("NaN", "middle_block_out")),
        (_wider, ("'control'", "96", "64")),
        (_lora, ("LoRA", "control.safetensors")),
    ],
)
def test_bad_control_models(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: Change, words: tuple[str, ...]
) -> None:
    line = _refused(_generate(tmp_path, model=_changed(tmp_path, change)), tmp_path, capsys)
    assert all(word in line for word in words)


@pytest.mark.parametrize(("keep", "words"), [(0, "empty"), (4, "truncated"), (500, "truncated"), (-100, "truncated")])
def test_truncated_control_models(tmp_path: Path, capsys: pytest.CaptureFixture[str], keep: int, words: str) -> None:
    path = tmp_path / "control.safetensors"
    path.write_bytes(CANNY.read_bytes()[:keep])
    assert words in _refused(_generate(tmp_path, model=path), tmp_path, capsys)
    assert words in _refused(["inspect", str(path)], tmp_path, capsys)


def test_bad_devices(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--device" in _refused([*_generate(tmp_path), "--device", "toaster"], tmp_path, capsys)
    assert "--device" in _refused([*_generate(tmp_path), "--offload", "model"], tmp_path, capsys)
    if not torch.cuda.is_available():
        assert "'cuda'" in _refused([*_generate(tmp_path), "--device", "cuda"], tmp_path, capsys)


def _data(folder: Path, lines: list[str]) -> Path:
    data = folder / "data"
    data.mkdir(exist_ok=True)
    _png_of(data / "0.png", ODD["1 channel"])
    (data / "metadata.jsonl").write_text("\n".join(lines))
    return data


GOOD = json.dumps({"file_name": "0.png", "text": "noise"})


@pytest.mark.parametrize(
    ("lines", "more", "words"),
    [
        (["{oops"], (), "line 1 of"),
        ([GOOD, '{"text": "a cat"}'], (), "line 2 of"),
        ([GOOD, "[1, 2]"], (), "line 2 of"),
        ([json.dumps({"file_name": "none.png", "text": ""})], (), "no file"),
        ([GOOD], ("--hint-parameters", "low"), "name=number"),
        ([GOOD], ("--hint-parameters", "low=much"), "name=number"),
        ([GOOD], ("--hint", "cany"), "canny"),
        ([GOOD], ("--base", "nowhere"), "'nowhere'"),
        ([GOOD], ("--hint", "inpaint_only"), "marks what is to be invented"),
        ([GOOD], ("--hint", "outpaint"), "marks what is to be invented"),
        ([GOOD], ("--hint", "reference_only"), "choose it as the model"),
        ([GOOD], ("--epochs", "2"), "leave one of them out"),
        ([GOOD], ("--change", "steps"), "add --resume"),
        ([GOOD], ("--resume", "--change", "frog"), "expected a setting"),
        ([GOOD], ("--steps", "0"), "--steps"),
        ([GOOD], ("--save-every", "0"), "--save-every"),
        ([GOOD], ("--learning-rate", "nan"), "--learning-rate"),
        ([GOOD], ("--warm-up", "-1"), "--warm-up"),
        ([GOOD], ("--empty-prompts", "2"), "--empty-prompts"),
        ([GOOD], ("--max-grad-norm", "0"), "--max-grad-norm"),
        ([GOOD], ("--sample-guidance", "inf"), "--sample-guidance"),
        ([GOOD], ("--seed", "-1"), "--seed"),
        ([GOOD], ("--hint-column", "hint"), "--hint-column"),
        ([GOOD], ("--out", str(SCENE / "control.safetensors")), "cannot make the folder"),
        ([GOOD], ("--resume",), "--resume"),
        ([GOOD], ("--start", "nothing.safetensors"), "nothing.safetensors"),
        ([GOOD], ("--out", "control.bin"), ".safetensors"),
    ],
)
def test_bad_trainings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], lines: list[str], more: tuple[str, ...], words: str
) -> None:
    data = _data(tmp_path, lines)
    given = ["train", "--base", str(BASE), "--data", str(data), "--out", str(tmp_path / "c.safetensors")]
    assert words in _refused([*given, "--hint", "canny", "--steps", "1", *more], tmp_path, capsys, talk=True)


@pytest.mark.parametrize("there", ["c.safetensors", "c.state"])
def test_a_training_replaces_no_other_one(tmp_path: Path, capsys: pytest.CaptureFixture[str], there: str) -> None:
    (tmp_path / there).write_bytes(b"of an earlier training")
    out = tmp_path / "c.safetensors"
    given = ["train", "--base", str(BASE), "--data", str(_data(tmp_path, [GOOD])), "--hint", "canny", "--out", str(out)]
    line = _refused([*given, "--steps", "1"], tmp_path, capsys)
    advice = "go on with it by --resume" if there.endswith(".state") else f"begin with it by --start {out}"
    assert there in line and advice in line


def test_advice_on_a_training_that_is_done_does_not_lead_in_a_circle(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "c.safetensors"
    out.write_bytes(b"of an earlier training")
    given = ["train", "--base", str(BASE), "--data", str(_data(tmp_path, [GOOD])), "--hint", "canny", "--out", str(out)]
    assert "there is no checkpoint" in _refused([*given, "--resume"], tmp_path, capsys)
    assert "--resume" not in _refused(given, tmp_path, capsys)


def test_data_that_is_given_twice_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    twice = ["--data", str(_data(tmp_path, [GOOD])), "--data", "other"]
    with pytest.raises(SystemExit) as ended:
        main(["train", "--base", str(BASE), *twice, "--hint", "canny", "--out", str(tmp_path / "c.safetensors")])
    assert ended.value.code == BAD_INPUT
    assert "--data is given twice, " in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["generate", "--base", "tiny", "--image", "a.png", "--image", "b.png"],
        ["generate", "--base", "tiny", "--mask", "a.png", "--mask", "b.png"],
        ["preprocess", "inpaint_only", "a.png", "--mask", "a.png", "--mask", "b.png"],
    ],
    ids=["image", "mask", "preprocess"],
)
def test_one_picture_is_not_taken_from_two(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == BAD_INPUT
    assert "is given twice, 'a.png' and 'b.png': give one" in capsys.readouterr().err


def test_nothing_that_is_there_is_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, folder = tmp_path / "file.safetensors", tmp_path / "folder"
    file.write_bytes(b"somebody's")
    folder.mkdir()
    (folder / "mine.txt").write_bytes(b"somebody's")
    for out in (file, folder):
        assert "is there already" in _refused(["tiny", "dataset", "--out", str(out), "--count", "1"], tmp_path, capsys)
    given = ["transfer", str(CANNY), "--from", str(BASE), "--to", str(BASE), "--out"]
    assert "is there already" in _refused([*given, str(file)], tmp_path, capsys)
    assert "--to" in _refused(
        [*given[:-3], "--to", "nowhere", "--out", str(tmp_path / "a.safetensors")], tmp_path, capsys
    )


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (("dataset", "--count", "0"), "1 or more"),
        (("dataset", "--seed", "-1"), "--seed"),
        (("autoencoder", "--steps", "0"), "1 or more"),
        (("autoencoder", "--save-every", "0"), "--save-every"),
        (("autoencoder", "--steps", "1", "--resume"), "--resume"),
        (("decoder", "--vae", "nowhere"), "--vae"),
        (("base", "--vae", "nowhere"), "--vae"),
        (("base", "--start", "nowhere"), "--start"),
        (("base", "--start", str(BASE), "--learning-rate", "nan"), "--learning-rate"),
        (("dataset", "--out", str(SCENE / "folder")), "cannot make the folder"),
    ],
)
def test_bad_tiny_worlds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: tuple[str, ...], words: str
) -> None:
    name, *more = command
    assert words in _refused(["tiny", name, "--out", str(tmp_path / "out"), *more], tmp_path, capsys)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--scenes", "1"), "2 or more"),
        (("--tiny", "nowhere"), "nowhere"),
        (("--json", str(SCENE / "scores.json")), "cannot make the folder"),
        (("--page", str(SCENE / "page.md")), "cannot make the folder"),
    ],
)
def test_bad_evaluations(tmp_path: Path, capsys: pytest.CaptureFixture[str], more: tuple[str, ...], words: str) -> None:
    assert words in _refused(["evaluate", *more], tmp_path, capsys)


def test_an_evaluation_without_its_controls(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(BASE, tmp_path / "base")
    assert "canny.safetensors" in _refused(["evaluate", "--tiny", str(tmp_path)], tmp_path, capsys)
