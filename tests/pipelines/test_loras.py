"""LoRAs of the base: names of kohya, diffusers and peft, one formula, every weight back afterwards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from controlstack.core.errors import ControlError, HostError, IncompatibleModelError, UnsupportedModelError
from controlstack.models.naming import to_ldm
from controlstack.pipelines.bases import Base
from controlstack.pipelines.drawing import generate
from controlstack.pipelines.loras.applied import applied
from controlstack.pipelines.loras.file import Lora, read_lora
from controlstack.pipelines.request import Request
from diffusers import StableDiffusionPipeline
from safetensors.torch import save_file
from torch import Tensor

SMALL: dict[str, Any] = {"steps": 2, "width": 64, "height": 64, "scheduler": "ddim", "prompt": "a red star"}
RANK, ALPHA = 2, 1.0
UNET = ("mid_block.attentions.0.transformer_blocks.0.attn1.to_q", "down_blocks.0.resnets.0.conv1")
TEXT = "encoder.layers.0.mlp.fc1"


def layers(base: Base) -> dict[str, Tensor]:
    """The weights that the files of these tests change, by 'part.layer'."""
    unet = dict(base.pipeline.unet.named_parameters())
    text = {name.removeprefix("text_model."): each for name, each in base.pipeline.text_encoder.named_parameters()}
    return {**{f"unet.{name}": unet[f"{name}.weight"] for name in UNET}, f"text.{TEXT}": text[f"{TEXT}.weight"]}


def pairs(base: Base) -> dict[str, tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(5)
    found = {}
    for name, weight in layers(base).items():
        down = torch.randn(RANK, *weight.shape[1:], generator=generator) * 0.1
        up = torch.randn(len(weight), RANK, *(1 for _ in weight.shape[2:]), generator=generator) * 0.1
        found[name] = (up, down)
    return found


def kohya(name: str) -> str:
    part, _, layer = name.partition(".")
    return f"lora_unet_{layer}".replace(".", "_") if part == "unet" else f"lora_te_text_model_{layer}".replace(".", "_")


def sgm(name: str) -> str:
    part, _, layer = name.partition(".")
    if part != "unet":
        return kohya(name)
    every = {f"{each}.weight": each for each in ALL_UNET}
    named = {value: key.removesuffix(".weight") for key, value in to_ldm(every).items()}
    return f"lora_unet_{named[layer]}".replace(".", "_")


ALL_UNET: list[str] = []


def peft(name: str) -> str:
    part, _, layer = name.partition(".")
    return f"unet.{layer}" if part == "unet" else f"text_encoder.text_model.{layer}"


def write(path: Path, base: Base, style: str) -> Path:
    ALL_UNET[:] = [each.removesuffix(".weight") for each, _ in base.pipeline.unet.named_parameters()]
    tensors: dict[str, Tensor] = {}
    for name, (up, down) in pairs(base).items():
        if style in ("kohya", "sgm"):
            key = kohya(name) if style == "kohya" else sgm(name)
            tensors |= {f"{key}.lora_up.weight": up, f"{key}.lora_down.weight": down}
            tensors[f"{key}.alpha"] = torch.tensor(ALPHA)
        elif style == "peft":
            tensors |= {f"{peft(name)}.lora_B.weight": up * ALPHA / RANK, f"{peft(name)}.lora_A.weight": down}
        else:
            tail = "lora_linear_layer" if name.startswith("text") else "lora"
            tensors |= {
                f"{peft(name)}.{tail}.up.weight": up * ALPHA / RANK,
                f"{peft(name)}.{tail}.down.weight": down,
            }
    save_file({key: value.contiguous() for key, value in tensors.items()}, path)
    return path


@pytest.mark.parametrize("style", ["kohya", "sgm", "peft", "diffusers"])
def test_a_lora_adds_its_product_and_leaves_nothing_behind(tiny: Base, tmp_path: Path, style: str) -> None:
    file = write(tmp_path / "x.safetensors", tiny, style)
    weights = layers(tiny)
    before = {name: each.clone() for name, each in weights.items()}
    with applied(tiny.pipeline, [Lora(str(file), 0.5)]):
        for name, (up, down) in pairs(tiny).items():
            product = (up.flatten(1) @ down.flatten(1)).reshape(before[name].shape)
            torch.testing.assert_close(weights[name].data, before[name] + 0.5 * ALPHA / RANK * product)
    assert all(torch.equal(each, before[name]) for name, each in weights.items())


def test_kohyas_names_are_the_layers_that_diffusers_finds(tiny: Base, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    theirs, _ = StableDiffusionPipeline.lora_state_dict(load_file(write(tmp_path / "x.safetensors", tiny, "kohya")))
    found = {name.replace(".processor.to_q_lora.", ".to_q.lora.") for name in theirs}
    ours = {f"{peft(name)}.{'lora_linear_layer' if 'text' in name else 'lora'}.up.weight" for name in pairs(tiny)}
    assert ours <= found


def test_diffusers_first_names_are_read(tiny: Base, tmp_path: Path) -> None:
    weight = tiny.pipeline.unet.mid_block.attentions[0].transformer_blocks[0].attn1.to_out[0].weight
    up, down = torch.ones(weight.shape[0], 1), torch.ones(1, weight.shape[1])
    name = "mid_block.attentions.0.transformer_blocks.0.attn1.processor.to_out_lora"
    save_file({f"{name}.up.weight": up, f"{name}.down.weight": down}, tmp_path / "x.safetensors")
    before = weight.clone()
    with applied(tiny.pipeline, [Lora(str(tmp_path / "x.safetensors"))]):
        assert torch.equal(weight, before + 1)


def test_a_lora_changes_the_picture_and_the_next_one_is_as_before(tiny: Base, tmp_path: Path) -> None:
    file = write(tmp_path / "x.safetensors", tiny, "kohya")
    plain = generate(tiny, Request(**SMALL)).images
    changed = generate(tiny, Request(loras=(Lora(str(file), 3.0),), **SMALL)).images
    assert not np.array_equal(plain, changed)
    assert np.array_equal(plain, generate(tiny, Request(**SMALL)).images)
    assert np.array_equal(plain, generate(tiny, Request(loras=(Lora(str(file), 0.0),), **SMALL)).images)


def test_a_lora_of_another_base_is_refused_before_anything_is_drawn(tiny: Base, xl: Base, tmp_path: Path) -> None:
    name = "lora_unet_down_blocks_7_attentions_0_proj_in"
    pair = {f"{name}.lora_up.weight": torch.ones(4, 1), f"{name}.lora_down.weight": torch.ones(1, 4)}
    save_file(pair, tmp_path / "other.safetensors")
    with pytest.raises(IncompatibleModelError, match="does not have"):
        generate(tiny, Request(loras=(Lora(str(tmp_path / "other.safetensors")),), **SMALL))
    wide = {"unet.conv_in.lora_B.weight": torch.ones(9, 1), "unet.conv_in.lora_A.weight": torch.ones(1, 9)}
    save_file(wide, tmp_path / "wide.safetensors")
    with pytest.raises(IncompatibleModelError, match=r"'conv_in\.weight'"):
        generate(xl, Request(loras=(Lora(str(tmp_path / "wide.safetensors")),), **SMALL))


@pytest.mark.parametrize(
    ("names", "error", "reason"),
    [
        (["a.hada_w1_a"], UnsupportedModelError, "a LoHa"),
        (["a.lokr_w1"], UnsupportedModelError, "a LoKr"),
        (["lora_unet_conv_in.dora_scale"], UnsupportedModelError, "a DoRA"),
        (["model.weight"], UnsupportedModelError, "is no LoRA"),
        (["unet.conv_in.lora_A.weight"], ControlError, "only a part"),
    ],
)
def test_other_files_are_named(tiny: Base, tmp_path: Path, names: list[str], error: Any, reason: str) -> None:
    save_file({name: torch.ones(1, 4) for name in names}, tmp_path / "x.safetensors")
    with pytest.raises(error, match=reason):
        generate(tiny, Request(loras=(Lora(str(tmp_path / "x.safetensors")),), **SMALL))


@pytest.mark.parametrize(
    ("text", "expected"),
    [("a.safetensors:0.8", ("a.safetensors", 0.8)), ("a.pt", ("a.pt", 1)), ("C:\\a.pt", ("C:\\a.pt", 1))],
)
def test_a_lora_is_written_with_its_weight(text: str, expected: tuple[str, float]) -> None:
    found = read_lora(text)
    assert (found.path, found.weight) == expected
    assert read_lora(str(found)) == found


@pytest.mark.parametrize("text", ["", "a.pt:nan", "a.pt:11"])
def test_a_lora_that_cannot_be_is_said(text: str) -> None:
    with pytest.raises(HostError):
        read_lora(text)
