"""Real pipelines with random, non-zero weights, small enough to run in a second."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import cpu_offload
from controlstack.models.registry import load_control_model
from controlstack.pipelines.bases import Base, Offload, load_base
from controlstack.pipelines.single_file import VAE
from controlstack.pipelines.tiny_world import BASE
from diffusers import ControlNetModel, T2IAdapter, UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor, nn

XL: dict[str, Any] = {
    "block_out_channels": (32, 64, 64),
    "layers_per_block": 2,
    "cross_attention_dim": 64,
    "attention_head_dim": 4,
    "norm_num_groups": 8,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "transformer_layers_per_block": (1, 1, 2),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 8 * 6 + 32,
}


def randomise(network: nn.Module, seed: int) -> Any:
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        parameter.data.normal_(0, 0.05, generator=generator)
    return network.eval().requires_grad_(False)


@pytest.fixture(scope="session")
def tiny() -> Base:
    """The shipped tiny model."""
    return load_base(BASE)


@pytest.fixture
def offloaded() -> Callable[[Offload], Base]:
    return offloaded_base


def offloaded_base(offload: Offload) -> Base:
    """The shipped tiny model with the hooks that offloading sets, whose device is the CPU, since every machine has one.

    diffusers' sequential offloading names its device `cpu:0`, which torch takes for another one than `cpu`, so the
    hooks are set here as it sets them.
    """
    base = load_base(BASE)
    if offload is Offload.MODEL:
        base.pipeline.enable_model_cpu_offload(device="cpu")
    elif offload is Offload.SEQUENTIAL:
        for part in base.pipeline.components.values():
            if isinstance(part, nn.Module):
                cpu_offload(part, torch.device("cpu"), offload_buffers=bool(part._parameters))
    return Base(base.pipeline, torch.device("cpu"), offload)


@pytest.fixture(scope="session")
def xl(tiny: Base) -> Base:
    """A random SDXL-shaped pipeline around the tiny model's tokenizer and autoencoder."""
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    part = tiny.pipeline
    settings = {**part.text_encoder.config.to_dict(), "hidden_size": 32, "intermediate_size": 64, "projection_dim": 32}
    config = CLIPTextConfig(**settings)
    up = ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D")
    pipeline = StableDiffusionXLPipeline(
        vae=part.vae,
        text_encoder=randomise(CLIPTextModel(config), 1),
        text_encoder_2=randomise(CLIPTextModelWithProjection(config), 2),
        tokenizer=part.tokenizer,
        tokenizer_2=part.tokenizer,
        unet=randomise(UNet2DConditionModel(sample_size=16, up_block_types=up, **XL), 3),
        scheduler=EulerDiscreteScheduler(steps_offset=1),
        add_watermarker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return Base(pipeline, torch.device("cpu"), Offload.NONE)


def control_of(base: Base, seed: int) -> ControlNetModel:
    """diffusers' ControlNet for a base, with random weights that make the hint matter."""
    control = randomise(ControlNetModel.from_unet(base.pipeline.unet), seed)
    control.controlnet_cond_embedding.conv_out.weight.data.mul_(20)
    return control


def ours(control: nn.Module, folder: Path, name: str) -> Any:
    """The same weights, through a file, as one of our models."""
    path = folder / f"{name}.safetensors"
    metadata = {"controlstack.heads": "4", "controlstack.norm_groups": "8"}
    save_file({key: value.contiguous() for key, value in control.state_dict().items()}, path, metadata)
    return load_control_model(path)


@pytest.fixture(scope="session")
def adapter() -> T2IAdapter:
    return randomise(T2IAdapter(3, [32, 64, 64, 64], num_res_blocks=2, downscale_factor=8), 7)


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """(control_of, ours) for the tests, which cannot import this file."""

    def make(base: Base, seed: int) -> tuple[ControlNetModel, Any]:
        control = control_of(base, seed)
        return control, ours(control, tmp_path_factory.mktemp("control"), f"control-{seed}")

    return make


@pytest.fixture
def as_ours(tmp_path: Path) -> Any:
    return lambda network, name: ours(network, tmp_path, name)


@pytest.fixture(scope="session")
def autoencoder_names() -> Callable[[Mapping[str, Tensor]], dict[str, Tensor]]:
    return ldm_autoencoder


def ldm_autoencoder(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The names of the original autoencoder, whose attention is made of 1x1 convolutions."""
    levels = 4
    table = (
        (r"down_blocks\.(\d)\.resnets\.", r"down.\1.block."),
        (r"down_blocks\.(\d)\.downsamplers\.0\.", r"down.\1.downsample."),
        (r"up_blocks\.(\d)\.resnets\.", lambda found: f"up.{levels - 1 - int(found[1])}.block."),
        (r"up_blocks\.(\d)\.upsamplers\.0\.", lambda found: f"up.{levels - 1 - int(found[1])}.upsample."),
        (r"mid_block\.resnets\.(\d)\.", lambda found: f"mid.block_{int(found[1]) + 1}."),
        (r"mid_block\.attentions\.0\.group_norm", "mid.attn_1.norm"),
        (r"mid_block\.attentions\.0\.to_([qkv])", r"mid.attn_1.\1"),
        (r"mid_block\.attentions\.0\.to_out\.0", "mid.attn_1.proj_out"),
        ("conv_shortcut", "nin_shortcut"),
        ("conv_norm_out", "norm_out"),
    )
    renamed = {}
    for key, value in state.items():
        for pattern, name in table:
            key = re.sub(pattern, name, key)
        convolution = "attn_1" in key and value.ndim == 2
        renamed[VAE + key] = value[..., None, None] if convolution else value
    return renamed
