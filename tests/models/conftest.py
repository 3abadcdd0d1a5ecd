"""Tiny networks of diffusers with random, non-zero weights, and the files they would come in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from diffusers import ControlNetModel, T2IAdapter, UNet2DConditionModel
from oracle import randomise
from safetensors.torch import save_file
from torch import Tensor

SD = {
    "block_out_channels": (32, 64, 64, 64),
    "layers_per_block": 2,
    "cross_attention_dim": 64,
    "attention_head_dim": 4,
    "norm_num_groups": 32,
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
}
SDXL = {
    "block_out_channels": (32, 64, 64),
    "layers_per_block": 2,
    "cross_attention_dim": 64,
    "attention_head_dim": 4,
    "norm_num_groups": 32,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "transformer_layers_per_block": (1, 2, 3),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 8 * 6 + 32,
}
UP = {
    "SD": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    "SDXL": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
}
CONFIGS: dict[str, dict[str, Any]] = {"SD": SD, "SDXL": SDXL}
ADAPTERS: dict[str, dict[str, Any]] = {
    "full": {"channels": [32, 64, 64, 64], "num_res_blocks": 2, "downscale_factor": 8, "adapter_type": "full_adapter"},
    "light": {"channels": [32, 64, 64], "num_res_blocks": 4, "downscale_factor": 8, "adapter_type": "light_adapter"},
    "xl": {
        "channels": [32, 64, 64, 64],
        "num_res_blocks": 2,
        "downscale_factor": 16,
        "adapter_type": "full_adapter_xl",
    },
}


@pytest.fixture(params=list(CONFIGS))
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def theirs(kind: str) -> ControlNetModel:
    return randomise(ControlNetModel(**CONFIGS[kind]))


@pytest.fixture
def unet(kind: str) -> UNet2DConditionModel:
    return randomise(UNet2DConditionModel(sample_size=16, up_block_types=UP[kind], **CONFIGS[kind]))


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
