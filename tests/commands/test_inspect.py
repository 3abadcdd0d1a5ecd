"""`inspect`: one model in full, several models and folders of them with a line each."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from controlstack.cli import main
from controlstack.pipelines.tiny_world import BASE, CONTROLS
from safetensors import safe_open
from safetensors.torch import load_file, save_file

CANNY = CONTROLS / "canny.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder as people have them: models in it and below it, diffusers' among them, and one that is broken."""
    below = tmp_path / "models" / "sd15"
    below.mkdir(parents=True)
    shutil.copy(CANNY, below.parent / "canny.safetensors")
    shutil.copy(CANNY, below / "other.safetensors")
    (below / "broken.safetensors").write_bytes(CANNY.read_bytes()[:500])
    (below / "read me.txt").write_text("no model")
    return below.parent


def _canny() -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Return the weights of a small ControlNet, and the settings that its file holds."""
    with safe_open(CANNY, "pt") as file:
        return load_file(CANNY), file.metadata()


def test_one_model_in_full(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(CANNY)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["family", "ControlNet"]
    assert any(line.split() == ["missing", "nothing"] for line in lines)


def test_one_model_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(CANNY), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["family"], told["missing"]) == ("ControlNet", [])


def test_all_values_are_read_when_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state, about = _canny()
    name = next(iter(state))
    save_file({**state, name: torch.full_like(state[name], torch.nan)}, tmp_path / "nan.safetensors", about)
    assert main(["inspect", str(CANNY), "--values"]) == 0
    assert "all are finite" in capsys.readouterr().out
    assert main(["inspect", str(tmp_path / "nan.safetensors"), "--values"]) == 2
    assert "NaN" in capsys.readouterr().err
    assert main(["inspect", str(CANNY), str(tmp_path / "nan.safetensors"), "--values"]) == 2
    assert "NaN" in capsys.readouterr().out.splitlines()[1]


def test_a_folder_has_a_line_for_each_model(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(folder)]) == 2
    told = capsys.readouterr()
    names = [line.split("  ")[0] for line in told.out.splitlines()]
    assert names == ["canny.safetensors", "sd15/broken.safetensors", "sd15/other.safetensors"]
    found = dict(zip(names, told.out.splitlines(), strict=True))
    assert "refused: 'broken.safetensors' is truncated" in found["sd15/broken.safetensors"]
    assert "ControlNet  " in found["canny.safetensors"]
    assert "3.6 MB" in found["sd15/other.safetensors"]
    assert told.err == "1 file of 3 refused\n"


def test_several_models_for_programs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(CANNY), str(folder / "sd15" / "other.safetensors"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [Path(each["file"]).name for each in told] == ["canny.safetensors", "other.safetensors"]
    assert {each["family"] for each in told} == {"ControlNet"}


def test_a_line_tells_of_weights_that_are_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state, about = _canny()
    del state["zero_convs.9.0.weight"]
    save_file(state, tmp_path / "lacking.safetensors", about)
    assert main(["inspect", str(CANNY), str(tmp_path / "lacking.safetensors")]) == 0
    whole, lacking = capsys.readouterr().out.splitlines()
    assert lacking.endswith("weights: 1 missing")
    assert "missing" not in whole


@pytest.mark.parametrize("where", ["base", "empty"])
def test_a_folder_without_control_models_is_refused_in_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], where: str
) -> None:
    path = BASE if where == "base" else tmp_path
    assert main(["inspect", str(path)]) == 2
    told = capsys.readouterr()
    assert not told.out
    assert told.err.startswith("controlstack: ")


def test_a_folder_with_one_model_is_that_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(CANNY, tmp_path / "canny.safetensors")
    assert main(["inspect", str(tmp_path)]) == 0
    assert capsys.readouterr().out.startswith("family ")
    (tmp_path / "below").mkdir()
    (tmp_path / "canny.safetensors").rename(tmp_path / "below" / "canny.safetensors")
    assert main(["inspect", str(tmp_path)]) == 0
    assert capsys.readouterr().out.startswith("below/canny.safetensors  ControlNet ")
