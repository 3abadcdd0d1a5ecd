"""Tiny networks of diffusers with random, non-zero weights: their configurations."""

from __future__ import annotations

from typing import Any

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
