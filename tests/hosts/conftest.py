"""Real hosts, started once for all tests; without one, its tests are skipped and say so."""

from __future__ import annotations

from collections.abc import Iterator

import comfyui_host
import control_files
import pytest


@pytest.fixture(scope="session")
def comfyui(tmp_path_factory: pytest.TempPathFactory) -> Iterator[comfyui_host.Host]:
    """A running ComfyUI with our nodes and small control models."""
    path = comfyui_host.find()
    if path is None:
        pytest.skip("no ComfyUI: set COMFYUI_PATH to its folder (and COMFYUI_PYTHON to its Python)")
    base = tmp_path_factory.mktemp("comfyui")
    control_files.write_all(base / "models" / "controlnet")
    with comfyui_host.started(path, base) as host:
        yield host
