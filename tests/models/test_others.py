"""Files of other kinds are refused by what they are: networks of diffusers, and names that other projects publish."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from controlstack.core.errors import UnsupportedModelError
from controlstack.models.registry import inspect, load_control_model
from safetensors.torch import save_file

SMALL: dict[str, Any] = {"num_layers": 1}
TINY_XL: dict[str, Any] = {
    "block_out_channels": (32, 64), "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"), "layers_per_block": 1,
    "norm_num_groups": 32, "cross_attention_dim": 64, "attention_head_dim": 4, "transformer_layers_per_block": 1,
    "addition_embed_type": "text_time", "addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 80,
}  # fmt: skip
Z_IMAGE: dict[str, Any] = {
    "control_layers_places": [0], "control_refiner_layers_places": [0], "control_in_dim": 9, "dim": 64, "n_heads": 4,
    "n_kv_heads": 4, "n_refiner_layers": 1,
}  # fmt: skip
CLASSES: dict[str, tuple[dict[str, Any], str]] = {  # a class of diffusers: (its configuration, words of the sentence)
    "FluxControlNetModel": ({**SMALL, "num_single_layers": 1}, "FLUX.1 ControlNet"),
    "SD3ControlNetModel": (SMALL, "SD 3 ControlNet"),
    "QwenImageControlNetModel": (SMALL, "Qwen-Image ControlNet"),
    "SanaControlNetModel": (SMALL, "Sana ControlNet"),
    "ZImageControlNetModel": (Z_IMAGE, "Z-Image Fun ControlNet"),
    "CosmosControlNetModel": ({}, "Cosmos ControlNet"),
    "HunyuanDiT2DControlNetModel": (
        {"sample_size": 8, "patch_size": 2, "in_channels": 4, "transformer_num_layers": 4},
        "HunyuanDiT ControlNet",
    ),
    "SparseControlNetModel": ({}, "SparseCtrl"),
    "UNetControlNetXSModel": ({}, "ControlNet-XS"),
    "WanVACETransformer3DModel": ({**SMALL, "vace_layers": [0]}, "Wan VACE"),
    "FluxTransformer2DModel": ({**SMALL, "num_single_layers": 1}, "FLUX.1 base model"),
    "SD3Transformer2DModel": (SMALL, "SD 3 base model"),
    "QwenImageTransformer2DModel": (SMALL, "Qwen-Image base model"),
    "ZImageTransformer2DModel": ({"n_layers": 1, "n_refiner_layers": 1}, "Z-Image or Lumina base model"),
    "SanaTransformer2DModel": (SMALL, "Sana, PixArt or LTX base model"),
    "WanTransformer3DModel": (SMALL, "Wan base model"),
    "PixArtTransformer2DModel": (SMALL, "PixArt or LTX base model"),
    "MotionAdapter": ({}, "motion module"),
    "UNet2DConditionModel": ({}, "U-Net of diffusers"),
    "AutoencoderKL": ({}, "VAE"),
    "AutoencoderTiny": ({}, "TAESD"),
}
NAMES: dict[str, tuple[dict[str, tuple[int, ...]], str]] = {  # files of other projects: (some names, words)
    "LLLite, Anima, latents": (
        {"lllite_conditioning1.conv1.weight": (4, 16, 4, 4), "lllite_dit_blocks_0_mlp_layer1.up.weight": (4,)},
        "ControlLLLite model for Anima in another form",
    ),
    "LLLite, old Anima": ({"lllite_modules.0.down.weight": (4,)}, "ControlLLLite model for Anima"),
    "Qwen Fun": (
        {"control_img_in.weight": (4, 132), "control_blocks.0.after_proj.weight": (4,)},
        "Qwen-Image Fun ControlNet",
    ),
    "Qwen Fun, 2.1": (
        {"control_img_in.weight": (4, 129), "control_blocks.0.img_mlp.out.weight": (4,)},
        "Qwen-Image 2.1 Fun ControlNet: in ComfyUI load it with 'Load Model Patch'",
    ),
    "FLUX.2 Fun": (
        {"control_img_in.weight": (4, 260), "control_transformer_blocks.0.after_proj.weight": (4,)},
        "FLUX.2 Fun ControlNet",
    ),
    "MiniMax H3": (
        {"control_proj_in.weight": (4,), "control_blocks.0.attn.qkv_proj.weight": (4,)}, "MiniMax H3 Fun ControlNet",
    ),
    "Qwen blockwise": ({"controlnet_blocks.0.y_rms.weight": (4,), "img_in.weight": (4, 64)}, "blockwise Qwen-Image"),
    "FLUX.1, XLabs": (
        {"controlnet_blocks.0.weight": (4,), "double_blocks.0.img_attn.norm.key_norm.scale": (4,)}, "FLUX.1 ControlNet",
    ),
    "FLUX.1, MistoLine": ({"controlnet_blocks.0.linear.weight": (4,)}, "FLUX.1 ControlNet"),
    "SD 3.5": (
        {
            "controlnet_blocks.0.weight": (4,), "pos_embed_input.proj.weight": (4,),
            "transformer_blocks.0.adaLN_modulation.1.bias": (4,),
        },
        "SD 3.5 ControlNet",
    ),
    "HunyuanDiT": ({"after_proj_list.18.bias": (4,)}, "HunyuanDiT ControlNet"),
    "Uni3C": ({"controlnet_patch_embedding.weight": (4,)}, "Uni3C"),
    "VACE": ({"vace_blocks.0.after_proj.weight": (4,), "patch_embedding.weight": (4,)}, "Wan VACE"),
    "BrushNet": ({"brushnet_down_blocks.0.weight": (4,), "conv_in_condition.weight": (4,)}, "BrushNet"),
    "SUPIR": (
        {
            "model.control_model.input_hint_block.0.weight": (4,), "model.control_model.zero_convs.0.0.weight": (4,),
            "model.control_model.input_blocks.0.0.weight": (4,),
            "model.diffusion_model.project_modules.0.weight": (4,),
        },
        "SUPIR",
    ),
    "Krea 2": (
        {"diffusion_model.first.weight": (6144, 128), "diffusion_model.blocks.0.attn.wq.lora_A.weight": (4,)},
        "Control-LoRA for Krea 2",
    ),
    "FLUX.1, LoRA": (
        {"x_embedder.lora_A.weight": (128, 128), "x_embedder.lora_B.weight": (4,)}, "Control-LoRA for FLUX.1",
    ),
    "Redux": ({"redux_up.weight": (4,), "redux_down.weight": (4,)}, "Redux"),
    "PuLID": ({"pulid_ca.0.to_q.weight": (4,)}, "PuLID"),
    "PhotoMaker": ({"id_encoder.visual_projection.weight": (4,)}, "PhotoMaker"),
    "IP-Adapter, FLUX.1": (
        {"double_blocks.0.processor.ip_adapter_double_stream_k_proj.weight": (4,)}, "IP-Adapter",
    ),
    "SVD": (
        {
            "controlnet_cond_embedding.conv_in.weight": (4,), "conv_in.weight": (4,),
            "down_blocks.0.resnets.0.temporal_res_block.conv1.weight": (4,), "controlnet_down_blocks.0.weight": (4,),
        },
        "Stable Video Diffusion",
    ),
    "Uni-ControlNet, global": ({"global_adapter.norm1.weight": (4,)}, "the global adapter of a Uni-ControlNet alone"),
    "CtrLoRA, base": (
        {"control_model.zero_convs.0.0.weight": (4,), "control_model.input_blocks.3.0.op.weight": (4,)},
        "base ControlNet of CtrLoRA",
    ),
    "ControlNeXt, companion": (
        {"down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0.weight": (4,)}, "what a ControlNeXt changes",
    ),
    "LLLite, Anima, trunk alone": (
        {"lllite_conditioning1.conv1.weight": (4, 3, 4, 4)}, "or use its own nodes in ComfyUI",
    ),
    "CLIP": ({"embeddings.token_embedding.weight": (4,)}, "text encoder"),
    "FLUX.1, one file": ({"model.diffusion_model.double_blocks.0.img_attn.qkv.weight": (4,)}, "checkpoint"),
    "FLUX.1, model alone": ({"double_blocks.0.img_attn.qkv.weight": (4,)}, "base model"),
    "Krea 2, base": ({"first.weight": (6144, 64), "txtfusion.0.weight": (4,)}, "Krea 2 base model"),
}  # fmt: skip


def _refused(path: Path, words: str) -> None:
    for use in (inspect, load_control_model):
        with pytest.raises(UnsupportedModelError) as caught:
            use(path)
        assert words in str(caught.value)
        assert caught.value.args[0].count(": ") >= 2  # what it is, and what to do


@pytest.mark.filterwarnings("ignore::FutureWarning")  # diffusers complains about its own imports
@pytest.mark.parametrize("name", CLASSES)
def test_networks_of_diffusers_are_named(tmp_path: Path, name: str, write: Callable[..., Path]) -> None:
    config, words = CLASSES[name]
    if not hasattr(diffusers, name):
        pytest.skip(f"this diffusers has no {name}")
    with torch.device("meta"):
        network = getattr(diffusers, name)(**config)
    _refused(write(tmp_path / "model.safetensors", network.state_dict()), words)


@pytest.fixture
def write() -> Callable[..., Path]:
    def small(path: Path, state: dict[str, torch.Tensor]) -> Path:
        """A file with the names of a network; the shapes do not matter for what it is."""
        save_file({name: torch.ones(1) for name in state}, path)
        return path

    return small


@pytest.mark.parametrize("name", NAMES)
def test_files_of_other_projects_are_named(tmp_path: Path, name: str) -> None:
    shapes, words = NAMES[name]
    path = tmp_path / "model.safetensors"
    save_file({key: torch.zeros(shape, dtype=torch.float16) for key, shape in shapes.items()}, path)
    _refused(path, words)
