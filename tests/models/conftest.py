"""Tiny networks of diffusers with random, non-zero weights, and the files they would come in."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from diffusers import ControlNetModel, T2IAdapter, UNet2DConditionModel
from oracle import randomise
from safetensors.torch import save_file
from tiny_networks import ADAPTERS, CONFIGS, UP
from torch import Tensor


@cache
def made(name: str, kind: str) -> Any:
    """A network that all tests share, and none changes."""
    if name == "ControlNetModel":
        return randomise(ControlNetModel(**CONFIGS[kind]))
    return randomise(UNet2DConditionModel(sample_size=16, up_block_types=UP[kind], **CONFIGS[kind]))


@pytest.fixture(params=list(CONFIGS))
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def theirs(kind: str) -> ControlNetModel:
    return made("ControlNetModel", kind)


@pytest.fixture
def unet(kind: str) -> UNet2DConditionModel:
    return made("UNet2DConditionModel", kind)


@pytest.fixture(params=list(ADAPTERS))
def adapter(request: pytest.FixtureRequest) -> T2IAdapter:
    return randomise(T2IAdapter(in_channels=3, **ADAPTERS[request.param]))


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    def write(tensors: dict[str, Tensor], metadata: dict[str, str] | None = None, name: str = "model") -> Path:
        path = tmp_path / f"{name}.safetensors"
        save_file({key: value.contiguous() for key, value in tensors.items()}, path, metadata)
        return path

    return write
