"""The recipe of ControlNet-XS: what wakes when, what diffusers makes of its files, and what it cannot be trained on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from controlstack.core.errors import ModelError, ScheduleError, UnsupportedModelError
from controlstack.models.registry import load_control_model
from controlstack.training import commands
from controlstack.training.loop import loss_of, train
from controlstack.training.recipes.controlnet_xs import XSRecipe
from controlstack.training.recipes.trainee import CONTROL, Trainee
from controlstack.training.results.export import write_folder
from controlstack.training.results.model import write_model
from controlstack.training.run import Run
from controlstack.training.settings import Settings
from controlstack.training.start import start
from controlstack.training.words import Words
from diffusers import ControlNetXSAdapter, UNet2DConditionModel, UNetControlNetXSModel
from diffusers.models.resnet import ResnetBlock2D
from safetensors.torch import load_file, save_file

Made = Callable[..., Settings]
BLOCKS = 2  # as in the tiny world: the family is defined for two
FAMILY = "controlnet-xs"
XL: dict[str, Any] = {
    "sample_size": 16,
    "cross_attention_dim": 64,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 8 * 6 + 32,
}
ROUNDING = 1e-5  # of the largest value, in fp32, through two ways of computing all blocks
TO_BASE = tuple(f"{CONTROL}{name}" for name in ("ctrl_to_base", "middle_out", "decoder"))
TO_CONTROL = tuple(f"{CONTROL}{name}" for name in ("base_to_ctrl", "middle_in"))


def moved(run: Run, steps: int) -> list[set[str]]:
    """Take steps of plain gradient descent; the names of the parameters that each has moved."""
    optimiser = torch.optim.SGD([each for _, each in run.plain.trained()], 1.0)
    found = []
    for _ in range(steps):
        before = {name: each.detach().clone() for name, each in run.plain.trained()}
        optimiser.zero_grad()
        loss_of(run, run.examples.batch(0, 2, seed=0)).backward()
        optimiser.step()
        run.plain.release()
        found.append({name for name, each in run.plain.trained() if not each.equal(before[name])})
    return found


def test_what_answers_the_base_wakes_first_and_what_hears_it_next(of_family: Made) -> None:
    """Behind zero convolutions nothing has a gradient; those in front of the control's blocks have one in step two."""
    first, second, third = moved(run := start(of_family(FAMILY)), 3)
    names = {name for name, _ in run.plain.trained()}
    assert first == {name for name in names if name.startswith(TO_BASE)}
    assert {name for name in names if name.startswith(TO_CONTROL)} <= second
    hint = {name for name in names if "input_hint_block" in name}
    assert second & hint == {f"{CONTROL}input_hint_block.14.{each}" for each in ("weight", "bias")}
    assert hint <= third


@torch.no_grad()
def test_in_training_it_computes_what_diffusers_does(of_family: Made, tmp_path: Path) -> None:
    run = start(of_family(FAMILY))
    randomise(run.network)
    (out,) = write_model(run, tmp_path / "xs.safetensors")
    theirs = ControlNetXSAdapter.from_pretrained(write_folder(run, out))
    assert theirs.state_dict().keys() == load_file(out).keys()
    compare(run.base.unet, theirs, run.plain, Words(torch.randn(2, 16, 64)))


@torch.no_grad()
def test_over_sdxl_too_whose_vector_condition_it_hears(settings: Settings) -> None:
    shape: dict[str, Any] = {**XL, "block_out_channels": (32, 64), "attention_head_dim": (2, 4), "norm_num_groups": 8}
    unet = UNet2DConditionModel(**shape).eval()
    randomise(unet, 0.05)
    recipe, own = XSRecipe(), replace(settings, family=FAMILY)
    randomise(network := recipe.create(unet, own))
    theirs = ControlNetXSAdapter.from_unet(unet, size_ratio=0.5)
    theirs.load_state_dict(dict(recipe.state(network)))
    words = Words(torch.randn(2, 16, 64), {"text_embeds": torch.randn(2, 32), "time_ids": torch.rand(2, 6) * 128})
    compare(unet, theirs, Trainee(unet, network, recipe.model(network, unet, own)), words)


def randomise(network: torch.nn.Module, scale: float = 0.1) -> None:
    generator = torch.Generator().manual_seed(2)
    for each in network.parameters():
        each.data = scale * torch.randn(each.shape, generator=generator)


def compare(unet: Any, theirs: Any, trainee: Trainee, words: Words) -> None:
    """Assert that a base under control predicts what diffusers' fused model does, and not what the base alone does."""
    fused = UNetControlNetXSModel.from_unet(unet, theirs).eval()
    for name, layer in fused.named_modules():  # which it forgets: the base's residual blocks have another epsilon
        if isinstance(layer, ResnetBlock2D) and "ctrl_" not in name:
            layer.norm1.eps = layer.norm2.eps = unet.config.norm_eps
    x, time, hint = torch.randn(2, 4, 16, 16), torch.tensor([10, 600]), torch.rand(2, 3, 128, 128)
    more = {} if words.added is None else {"added_cond_kwargs": words.added}
    expected, found = fused(x, time, words.context, hint, **more).sample, trainee(x, time, hint, words)
    scale = float(expected.abs().max())
    assert torch.allclose(found, expected, atol=ROUNDING * scale)
    assert (expected - unet(x, time, words.context, **more).sample).abs().max() > 1e-2 * scale


@pytest.mark.parametrize("folder", [False, True])
def test_it_goes_on_from_a_file_and_from_a_folder_of_diffusers(of_family: Made, tmp_path: Path, folder: bool) -> None:
    run = start(of_family(FAMILY, steps=2, warm_up=0))
    list(train(run))
    (out,) = write_model(run, tmp_path / "xs.safetensors")
    again = start(of_family(FAMILY, start=write_folder(run, out) if folder else out))
    assert all(again.network.state_dict()[name].equal(each) for name, each in run.network.state_dict().items())


def test_a_narrow_base_gets_a_wider_share(of_family: Made) -> None:
    assert start(of_family(FAMILY)).network.widths == (16, 32, 32, 32)  # of 32, 64, 64, 64
    assert start(of_family(FAMILY, size_ratio=0.25)).network.widths == (8, 16, 16, 16)


def test_published_bases_get_a_tenth(settings: Settings) -> None:
    """diffusers' adapter of SDXL has 38.2 million parameters at a tenth, of 2,567 of the base."""
    xl: dict[str, Any] = {
        "block_out_channels": (320, 640, 1280),
        "cross_attention_dim": 2048,
        "attention_head_dim": (5, 10, 20),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 2, 10),
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    }
    recipe = XSRecipe()
    with torch.device("meta"):
        unet = UNet2DConditionModel(**xl)
        network = recipe.create(unet, settings)
    assert sum(each.numel() for each in network.parameters()) / 1e6 == pytest.approx(38.2, abs=0.05)
    model = recipe.model(network, unet, settings)
    assert len(model.points) == 18
    assert recipe.state(network).keys() == ControlNetXSAdapter.from_unet(unet, size_ratio=0.1).state_dict().keys()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"start": "copy"}, "--start is 'copy', expected a file for controlnet-xs"),
        ({"start": Path("xs.safetensors"), "size_ratio": 0.2}, "--size-ratio is of a fresh start, and a file has its"),
        ({"size_ratio": 0.1}, "leaves 3 of 32 channels to 4 heads, expected one for each: give 0.125 or more"),
        ({"family": "controlnet", "size_ratio": 0.1}, "--size-ratio is of another family than controlnet"),
    ],
)
def test_what_fits_no_start_is_refused(of_family: Made, change: dict[str, Any], words: str) -> None:
    with pytest.raises(ScheduleError, match=words):
        start(of_family(**{"family": FAMILY, **change}))


@pytest.mark.parametrize("ratio", [0.0, -0.1, 1.5, float("nan")])
def test_a_share_is_above_nothing_and_one_at_most(of_family: Made, ratio: float) -> None:
    with pytest.raises(ScheduleError, match=r"--size-ratio is .*, expected more than 0, 1 at most"):
        of_family(FAMILY, size_ratio=ratio)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"control_to_base_for_conv_in.weight": (48, 16, 1, 1), "control_to_base_for_conv_in.bias": (48,)}, "was trai"),
        ({"attn2.to_k.weight": (32, 48), "attn2.to_v.weight": (32, 48)}, "was trained for .* choose a control model"),
    ],
)
def test_a_file_for_another_base_is_no_start(
    of_family: Made, tmp_path: Path, changed: dict[str, tuple[int, ...]], words: str
) -> None:
    (out,) = write_model(start(of_family(FAMILY)), tmp_path / "xs.safetensors")
    state = load_file(out)
    for name, each in state.items():
        for end, shape in changed.items():
            if name.endswith(end):
                state[name] = torch.zeros(len(each) if ".attn2." in name else shape[0], *shape[1:])
    save_file(state, tmp_path / "other.safetensors")
    with pytest.raises(ModelError, match=words):
        start(of_family(FAMILY, start=tmp_path / "other.safetensors"))


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"heads": "2"}, "has heads 2, its base model 4: training knows the base's alone"),
        ({"norm_groups": "4"}, "has norm_groups 4, its base model 8"),
        ({"hint_order": "bgr"}, "reads hints with red and blue swapped"),
    ],
)
def test_a_file_that_computes_otherwise_is_no_start(
    of_family: Made, tmp_path: Path, said: dict[str, str], words: str
) -> None:
    (out,) = write_model(start(of_family(FAMILY)), tmp_path / "xs.safetensors")
    save_file(load_file(out), out, {f"controlstack.{name}": value for name, value in said.items()})
    with pytest.raises(UnsupportedModelError, match=words):
        start(of_family(FAMILY, start=out))


def test_the_command_trains_one(of_family: Made, tmp_path: Path) -> None:
    own, out = of_family(FAMILY), tmp_path / "xs.safetensors"
    said = f"train --base {own.base} --data {own.data} --hint canny --steps 1 --batch 1 --out {out} --family {FAMILY}"
    assert commands.main([*said.split(), "--size-ratio", "0.25", "--samples", "1", "--sample-steps", "1"]) == 0
    assert load_control_model(out).network.widths == (8, 16, 16, 16)
    assert (tmp_path / "xs.samples" / "000001.png").is_file()
