"""Units on a base that was compiled before they came: none is ignored, and the base is compiled again afterwards.

dynamo alone is tried, by its backend that compiles nothing, so no compiler is needed.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from controlstack.core.network.points import stream
from controlstack.core.stack import ControlStack
from controlstack.core.unit import ControlUnit
from controlstack.models.families.controlnet.model import ControlNetModel
from controlstack.pipelines.attached import Injection, base_of
from controlstack.pipelines.bases import load_base
from controlstack.pipelines.tiny_world import BASE
from controlstack.training.recipes.copies import copy_of_encoder
from diffusers import UNet2DConditionModel
from families import CrossNormed, CrossOut, at, random_layer
from torch import Tensor

SIDE = 64
SMALL = {  # a U-Net of two levels: dynamo follows each block by itself, and of a third it would learn nothing new
    "block_out_channels": (32, 64),
    "layers_per_block": 1,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
}
HINT = torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


def draw(pipeline: Any, unit: ControlUnit | None) -> Tensor:
    noise = torch.randn(1, 4, SIDE // 8, SIDE // 8, generator=torch.Generator().manual_seed(0))
    call = {"num_inference_steps": 2, "output_type": "latent", "latents": noise, "height": SIDE, "width": SIDE}
    if unit is None:
        return pipeline(prompt="a red star", **call).images
    with Injection(pipeline, ControlStack([unit]), pictures=1):
        return pipeline(prompt="a red star", **call).images


def units(unet: Any) -> dict[str, ControlUnit]:
    """One that acts by arguments of the U-Net, one in a compiled block, one beside it."""
    blocks = base_of(unet).blocks
    assert blocks is not None
    level = next(k for k, each in enumerate(unet.down_blocks) if hasattr(each, "attentions"))
    index = level * (unet.config["layers_per_block"] + 1) + 1
    models = {
        "residuals": ControlNetModel(random_layer(copy_of_encoder(unet), 2), name="residuals"),
        "in a block": CrossOut(blocks[index], index),
        "beside it": at(CrossNormed(blocks[index]), stream(index)),
    }
    return {name: ControlUnit(model=model, hint=HINT) for name, model in models.items()}


def compile_blocks(pipeline: Any) -> None:
    pipeline.unet.compile_repeated_blocks(backend="eager", fullgraph=True)


def compile_in_place(pipeline: Any) -> None:
    pipeline.unet.compile(backend="eager")


def compile_whole(pipeline: Any) -> None:
    pipeline.unet = torch.compile(pipeline.unet, backend="eager")


@pytest.mark.parametrize("compiles", [compile_blocks, compile_in_place, compile_whole])
def test_no_unit_is_ignored(compiles: Any) -> None:
    torch.compiler.reset()
    pipeline: Any = load_base(BASE).pipeline
    pipeline.unet = random_layer(UNet2DConditionModel.from_config({**pipeline.unet.config, **SMALL}), 0, 1.0)
    made: dict[str | None, ControlUnit | None] = {None: None, **units(pipeline.unet)}
    wanted = {name: draw(pipeline, unit) for name, unit in made.items()}
    assert all(not wanted[name].allclose(wanted[None], atol=1e-2) for name in made if name is not None)
    compiles(pipeline)
    unet = pipeline.unet
    before = [(part, part._compiled_call_impl) for part in unet.modules()]
    for name in (None, *made):
        assert draw(pipeline, made[name]).allclose(wanted[name], atol=1e-4), name
        assert pipeline.unet is unet
        assert [(part, part._compiled_call_impl) for part in unet.modules()] == before
