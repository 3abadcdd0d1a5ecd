"""Files that hold differences to their base: the command adds them to the base it has loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from controlstack.cli import main
from controlstack.core.errors import IncompatibleModelError
from controlstack.models.files.loading import read_header, read_tensors
from controlstack.models.registry import load_control_model
from controlstack.pipelines.bases import Base, Offload, UnetState
from controlstack.pipelines.tiny_world import BASE, CONTROLS, IMAGES
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, ones

CANNY = CONTROLS / "canny.safetensors"


def _state(base: Base) -> UnetState:
    return UnetState(lambda: base)


def _write(folder: Path, base: Mapping[str, Tensor], change: Callable[[Tensor, Tensor], Tensor]) -> Path:
    """The shipped canny control in fp32, its weights that the base has as well changed by `change(weight, base's)`."""
    whole = read_tensors(CANNY)
    state = {
        f"control_model.{key}": change(value.float(), base[key]) if key in base else value.float()
        for key, value in whole.items()
    }
    path = folder / "canny.safetensors"
    save_file({**state, "difference": ones(1)}, path, dict(read_header(CANNY).metadata))
    return path


@pytest.fixture
def difference(tiny: Base, tmp_path: Path) -> Path:
    return _write(tmp_path, _state(tiny), lambda weight, base: weight - base)


def _draw(model: Path, folder: Path, *options: str) -> np.ndarray:
    unit = f"image={IMAGES / 'scene-1.png'},preprocessor=canny,low=50,high=100,model={model}"
    small = ["--steps", "2", "--width", "64", "--height", "64", "--scheduler", "ddim", "--guidance", "2", "--seed", "0"]
    assert main(["generate", "--base", str(BASE), "--unit", unit, *small, *options, "--output", str(folder)]) == 0
    return np.asarray(Image.open(folder / "00001.png")).astype(int)


def test_generate_adds_the_base_it_has_loaded(difference: Path, tiny: Base, tmp_path: Path) -> None:
    whole, summed = _draw(CANNY, tmp_path / "whole"), _draw(difference, tmp_path / "summed")
    too_much = _write(tmp_path, _state(tiny), lambda weight, base: weight)  # added to weights that are whole
    other = _draw(too_much, tmp_path / "other")
    assert np.abs(whole - summed).max() <= 1  # of 255: a sum rounds otherwise than the weight itself
    assert np.abs(whole - other).max() > 20


@pytest.mark.parametrize("offload", list(Offload))
def test_the_base_tells_its_weights_however_it_is_offloaded(
    tiny: Base, offloaded: Callable[[Offload], Base], offload: Offload
) -> None:
    state, plain = _state(offloaded(offload)), _state(tiny)
    assert dict(state).keys() == dict(plain).keys()
    assert all(state[name].equal(plain[name]) for name in plain)


def test_another_base_is_refused(difference: Path, xl: Base) -> None:
    with pytest.raises(IncompatibleModelError, match="another base model"):
        load_control_model(difference, base_state=_state(xl))
