"""A real ComfyUI, started once for all tests; without one, they are skipped and say so."""

from __future__ import annotations

from collections.abc import Iterator

import comfyui_host
import comfyui_world
import family_units
import pytest


@pytest.fixture(scope="session")
def comfyui(tmp_path_factory: pytest.TempPathFactory) -> Iterator[comfyui_host.Host]:
    """A running ComfyUI with our nodes and small control models."""
    path = comfyui_host.find()
    if path is None:
        pytest.skip("no ComfyUI: set COMFYUI_PATH to its folder (and COMFYUI_PYTHON to its Python)")
    base = tmp_path_factory.mktemp("comfyui")
    family_units.write_families(base / "models" / "controlnet", base / "models" / "controlnet_aux")
    comfyui_world.put_into(base)
    with comfyui_host.started(path, base) as host:
        yield host
