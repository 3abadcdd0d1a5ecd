"""A reference on the command line: it has no file, and its picture can be drawn again."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
from controlstack.core.errors import FileError
from controlstack.pipelines.bases import UnetState, load_base
from controlstack.pipelines.tiny_world import BASE
from controlstack.preprocessors.images import write_image
from controlstack.standalone.terminal.generating import with_paths
from controlstack.standalone.units import load_model, load_units, parse_unit


def test_a_reference_needs_no_file(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    write_image(tmp_path / "style.png", picture)
    base = load_base(BASE)
    request = parse_unit(f"image={tmp_path / 'style.png'},model=reference_only,options=fidelity=0.3")
    (loaded,) = load_units([request], (64, 64), torch.float32, UnetState(lambda: base))
    assert loaded.unit.model.name == "reference_only"
    assert loaded.unit.model.options == {"fidelity": 0.3}
    assert loaded.unit.hint.shape == (1, 3, 64, 64)
    again = load_model("reference_only", torch.float32, UnetState(lambda: base))
    assert again.points == loaded.unit.model.points


def test_its_name_is_no_missing_file(tmp_path: Path) -> None:
    write_image(tmp_path / "style.png", np.zeros((8, 8, 3), np.uint8))
    unit = parse_unit(f"image={tmp_path / 'style.png'},model=reference_adain")
    with_paths(Namespace(base=BASE, image=None, mask=None, lora=[]), [unit])
    missing = parse_unit(f"image={tmp_path / 'style.png'},model=reference_other")
    with pytest.raises(FileError, match="reference_other"):
        with_paths(Namespace(base=BASE, image=None, mask=None, lora=[]), [missing])
