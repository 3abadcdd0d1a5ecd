"""Ctrl-C in the middle of the work: nothing is half-written, and what can go on says how."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from controlstack.cli import main
from controlstack.pipelines.tiny_world import BASE, CONTROLS, IMAGES
from controlstack.training.tiny.scenes import write_dataset
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file
from torch import nn


@contextmanager
def _interrupt_at(kind: type[nn.Module], call: int) -> Iterator[None]:
    """A real Ctrl-C while the network of this kind computes for the n-th time."""
    count = 0

    def hook(module: nn.Module, *_: Any) -> None:
        nonlocal count
        count += isinstance(module, kind)
        if isinstance(module, kind) and count == call:
            signal.raise_signal(signal.SIGINT)

    handle = nn.modules.module.register_module_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def test_generate_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    unit = f"image={IMAGES / 'scene-1.png'},preprocessor=canny,model={CONTROLS / 'canny.safetensors'}"
    small = ["--steps", "3", "--width", "64", "--height", "64", "--output", str(tmp_path / "out")]
    with _interrupt_at(UNet2DConditionModel, 2):
        assert main(["generate", "--base", str(BASE), "--unit", unit, *small]) == 130
    assert capsys.readouterr().err.endswith("controlstack: interrupted\n")
    assert not list(tmp_path.iterdir())


def test_generate_keeps_what_is_finished(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--steps", "2", "--width", "64", "--height", "64", "--seed", "5", "--output", str(tmp_path)]
    with _interrupt_at(UNet2DConditionModel, 4):  # the second step of the second picture
        assert main(["generate", "--base", str(BASE), *small, "--batch", "3", "--at-once", "1"]) == 130
    assert {path.name for path in tmp_path.iterdir()} == {"00001.png", "00001-sheet.png", "00001-settings.toml"}
    assert "wrote 1 picture" in capsys.readouterr().out


def test_train_goes_on_where_it_stopped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_dataset(tmp_path / "data", 2, seed=1)
    given = ["train", "--base", str(BASE), "--data", str(tmp_path / "data"), "--hint", "canny", "--steps", "3"]
    given += ["--batch", "1", "--learning-rate", "1e-3", "--resolution", "64"]
    whole, broken = tmp_path / "whole" / "control.safetensors", tmp_path / "broken" / "control.safetensors"
    assert main([*given, "--out", str(whole)]) == 0
    with _interrupt_at(UNet2DConditionModel, 2):
        assert main([*given, "--out", str(broken)]) == 130
    said = capsys.readouterr().err
    assert "stopped after step 2" in said and "go on with --resume" in said
    assert {"control.state", broken.name} <= {path.name for path in broken.parent.iterdir()}  # a model to use, too
    assert main([*given, "--out", str(broken), "--resume"]) == 0
    expected, found = load_file(whole), load_file(broken)
    assert all(torch.equal(found[key], value) for key, value in expected.items())
