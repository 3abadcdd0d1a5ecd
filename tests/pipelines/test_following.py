"""Controls that take weights of the base model: on the shipped base."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from controlstack.core.stack import ControlStack
from controlstack.core.unit import ControlUnit
from controlstack.models.families.controlnet.config import ControlNetConfig, ControlNetSettings
from controlstack.models.families.controlnet.network import ControlNet
from controlstack.models.family import shapes_of
from controlstack.models.naming import to_ldm
from controlstack.models.registry import load_control_model
from controlstack.pipelines.attached import Injection
from controlstack.pipelines.bases import Base, load_base
from controlstack.pipelines.tiny_world import BASE
from safetensors.torch import save_file
from torch import Tensor

SIDE = 64
State = dict[str, Tensor]


def files(base: Base, folder: Path) -> tuple[Path, Path]:
    """A Control-LoRA for a base, and the ControlNet that it becomes."""
    weights: State = to_ldm(base.pipeline.unet.state_dict())
    heads = base.pipeline.unet.config["attention_head_dim"]
    network = ControlNet(ControlNetConfig.from_shapes(shapes_of(weights), ControlNetSettings(heads=heads)))
    generator, lora, whole = torch.Generator().manual_seed(1), {"lora_controlnet": torch.zeros(0)}, {}
    for name, each in network.state_dict().items():
        stem = name.removesuffix(".weight")
        if name not in weights or each.ndim == 1:
            lora[name] = whole[name] = torch.randn(each.shape, generator=generator) * 0.1
            continue
        ones = (1,) * (each.ndim - 2)
        up = lora[f"{stem}.up"] = torch.randn(len(each), 2, *ones, generator=generator) * 0.1
        down = lora[f"{stem}.down"] = torch.randn(2, *each.shape[1:], generator=generator) * 0.1
        whole[name] = weights[name] + (up.flatten(1) @ down.flatten(1)).reshape(each.shape)
    settings = {"controlstack.heads": str(heads)}
    save_file(lora, folder / "lora.safetensors", settings)
    save_file(whole, folder / "whole.safetensors", settings)
    return folder / "lora.safetensors", folder / "whole.safetensors"


def draw(base: Base, units: list[ControlUnit]) -> Tensor:
    noise = torch.randn(1, 4, SIDE // 8, SIDE // 8, generator=torch.Generator().manual_seed(0))
    call: dict[str, Any] = {"prompt": "a red star", "num_inference_steps": 2, "guidance_scale": 3.0, "latents": noise}
    with Injection(base.pipeline, ControlStack(units, base), pictures=1):
        return base.pipeline(**call, output_type="latent", height=SIDE, width=SIDE).images


def test_a_control_lora_on_a_base(tmp_path: Path) -> None:
    base = load_base(BASE)
    lora, whole = files(base, tmp_path)
    hint = torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(2))
    expected = draw(base, [ControlUnit(model=load_control_model(whole), hint=hint)])
    plain = draw(base, [])
    ours = draw(base, [ControlUnit(model=load_control_model(lora), hint=hint)])
    assert (ours - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert (expected - plain).abs().max() > 1e-2 * plain.abs().max()


def test_it_follows_a_base_that_was_changed(tmp_path: Path) -> None:
    base = load_base(BASE)
    lora, _ = files(base, tmp_path)
    unit = ControlUnit(model=load_control_model(lora), hint=torch.rand(1, 3, SIDE, SIDE))
    draw(base, [unit])
    with torch.no_grad():
        base.pipeline.unet.mid_block.resnets[0].conv1.weight.mul_(1.5)
    again = draw(base, [unit])
    fresh = draw(base, [ControlUnit(model=load_control_model(lora), hint=unit.hint)])
    assert again.equal(fresh)
