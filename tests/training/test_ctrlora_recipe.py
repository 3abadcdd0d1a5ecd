"""The recipe of CtrLoRA: what of it learns on a base ControlNet, how its two files find each other, what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from controlstack.core.errors import ControlError, ModelError
from controlstack.models.registry import load_control_model
from controlstack.training import commands
from controlstack.training.loop import loss_of, train
from controlstack.training.recipes.ctrlora import CtrLoraRecipe
from controlstack.training.recipes.trainee import CONTROL, Trainee
from controlstack.training.results.model import write_model
from controlstack.training.run import Run
from controlstack.training.settings import Settings
from controlstack.training.start import start
from controlstack.training.words import Words
from diffusers import UNet2DConditionModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

Made = Callable[..., Settings]
FAMILY = "ctrlora"
ROUNDING = 1e-5  # of what a base answers, with factors beside the weights and merged into them
SMALL = ("lora_layer", "zero_convs", "middle_block_out", "norm", "norm1", "norm2", "norm3")  # parts of names


@pytest.fixture
def base(of_family: Made, tmp_path: Path) -> Path:
    """A base ControlNet whose zero convolutions are awake, beside the small file of its own training."""
    run = start(of_family(FAMILY, steps=1))
    generator = torch.Generator().manual_seed(1)
    for name, each in run.network.named_parameters():
        if name.startswith(("zero_convs", "middle_block_out")):
            each.data = 0.1 * torch.randn(each.shape, generator=generator)
    small, whole = sorted(write_model(run, tmp_path / "first.safetensors"), key=lambda path: path.name)
    assert small.name == "first.safetensors"
    return whole


def is_small(name: str) -> bool:
    return not set(SMALL).isdisjoint(name.split("."))


def moved(run: Run, steps: int) -> list[set[str]]:
    """Take steps of plain gradient descent; the names of the parameters that each has moved."""
    optimiser = torch.optim.SGD([each for _, each in run.plain.trained()], 1.0)
    found = []
    for _ in range(steps):
        before = {name: each.detach().clone() for name, each in run.network.named_parameters()}
        optimiser.zero_grad()
        loss_of(run, run.examples.batch(0, 2, seed=0)).backward()
        optimiser.step()
        found.append({name for name, each in run.network.named_parameters() if not each.equal(before[name])})
    return found


def test_on_a_base_the_factors_learn_and_all_else_stays(of_family: Made, base: Path) -> None:
    """W + U D with U = 0: dL/dD = 0 in the first step, in which U and what has no factors move."""
    run = start(of_family(FAMILY, start=base))
    names = {name for name, _ in run.network.named_parameters()}
    first, second = moved(run, 2)
    small = {name for name in names if is_small(name)}
    assert {name.removeprefix(CONTROL) for name, _ in run.plain.trained()} == small
    assert first == {name for name in small if ".down." not in name}
    assert first < second <= small


def test_a_base_learns_whole(of_family: Made) -> None:
    run = start(of_family(FAMILY))
    names = {name for name, _ in run.network.named_parameters()}
    assert {name.removeprefix(CONTROL) for name, _ in run.plain.trained()} == names
    (first,) = moved(run, 1)
    assert first == {name for name in run.network.state_dict() if name.startswith(("zero_convs", "middle_block_out"))}


@torch.no_grad()
def test_it_reads_the_latents_of_the_hint_in_0_to_1(of_family: Made) -> None:
    """The published trainings show 0..1 to an autoencoder that was made for -1..1."""
    run = start(of_family(FAMILY))
    seen: list[Tensor] = []
    handle = run.network.input_blocks[0][0].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    hint, vae = torch.rand(2, 3, 128, 128), run.base.vae
    run.plain(torch.randn(2, 4, 16, 16), torch.tensor([10, 600]), hint, Words(torch.randn(2, 16, 64)))
    handle.remove()
    torch.testing.assert_close(seen[0], vae.encode(hint).latents * vae.config.scaling_factor)


@torch.no_grad()
def added(run: Run, model: Any = None) -> Tensor:
    """What the control in training, or a loaded model, adds to the base's prediction."""
    generator = torch.Generator().manual_seed(3)
    x, hint, context = (torch.randn(2, *shape, generator=generator) for shape in ((4, 16, 16), (3, 128, 128), (16, 64)))
    time, words = torch.tensor([10, 600]), Words(context)
    trainee = run.plain
    if model is not None:
        trainee = Trainee(run.base.unet, model.network, model, encode=run.encoder.latents)
    return trainee(x, time, hint.sigmoid(), words) - run.base.unet(x, time, context).sample


@pytest.mark.parametrize("place", ["second.safetensors", "second.snapshots/second-000002.safetensors"])
def test_a_small_file_draws_with_the_base_that_it_was_trained_on(
    of_family: Made, base: Path, tmp_path: Path, place: str
) -> None:
    """That lies beside it, or above the folder of a training's snapshots."""
    run = start(of_family(FAMILY, start=base, steps=2, warm_up=0))
    before = added(run)
    list(train(run))
    (out,) = write_model(run, tmp_path / place)
    expected = added(run)
    assert (expected - before).abs().max() > 100 * ROUNDING
    assert (added(run, load_control_model(out)) - expected).abs().max() < ROUNDING
    assert not any(name.endswith("conv_in.weight") or ".0.op." in name for name in load_file(out))


def test_it_goes_on_from_a_small_file(of_family: Made, base: Path, tmp_path: Path) -> None:
    run = start(of_family(FAMILY, start=base, steps=2, warm_up=0, rank=3))
    list(train(run))
    (out,) = write_model(run, tmp_path / "second.safetensors")
    again = start(of_family(FAMILY, start=out))
    assert all(again.network.state_dict()[name].equal(each) for name, each in run.network.state_dict().items())
    assert again.network.state_dict()["time_embed.0.lora_layer.down.weight"].shape == (3, 32)
    assert len(list(again.plain.trained())) == len(list(run.plain.trained()))


def test_another_base_of_that_name_is_refused(of_family: Made, base: Path, tmp_path: Path) -> None:
    (out,) = write_model(start(of_family(FAMILY, start=base)), tmp_path / "second.safetensors")
    write_model(start(of_family(FAMILY)), base.with_name("first.safetensors"))
    with pytest.raises(ModelError, match="were not written together"):
        load_control_model(out)
    with pytest.raises(ModelError, match="were not written together"):
        start(of_family(FAMILY, start=out))
    save_file(load_file(base), base)  # as the authors' files, it says nothing
    assert load_control_model(out).points


def test_the_published_size_is_trained(settings: Settings) -> None:
    """37 million parameters at rank 128 for SD 1.5, of the names that the published files have."""
    recipe = CtrLoraRecipe()
    with torch.device("meta"):
        unet = UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8)
        network = recipe.create(unet, settings)
    state = recipe.state(network)
    assert sum(each.numel() for each in state.values()) / 1e6 == pytest.approx(37, abs=0.5)
    assert all(name.startswith("control_model.") for name in state)
    network.base_file = Path("base.ckpt")
    frozen = set(recipe.frozen(network))
    assert {f"control_model.{name}" for name in network.state_dict() if name not in frozen} == set(state)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"start": "gaussian"}, "--start is 'gaussian', expected copy, a file for ctrlora"),
        ({"rank": 0}, "--rank is 0, expected 1 or more"),
        ({"rank": 65}, "--rank is 65, expected no more than the 64 channels of the base model"),
        ({"family": "controlnet", "rank": 8}, "--rank is of another family than controlnet"),
    ],
)
def test_what_fits_no_start_is_refused(of_family: Made, change: dict[str, Any], words: str) -> None:
    with pytest.raises(ControlError, match=words):
        start(of_family(**{"family": FAMILY, **change}))


def test_a_small_file_has_its_own_rank(of_family: Made, base: Path) -> None:
    with pytest.raises(ControlError, match="--rank is of new factors, and a small file has its own"):
        start(of_family(FAMILY, start=base.with_name("first.safetensors"), rank=8))


def test_files_that_are_no_base_are_told(of_family: Made, base: Path, tmp_path: Path) -> None:
    (plain,) = write_model(start(of_family("controlnet")), tmp_path / "plain.safetensors")
    with pytest.raises(ModelError, match=r"'plain.safetensors' is neither a CtrLoRA nor the base ControlNet of one"):
        start(of_family(FAMILY, start=plain))
    state, name = load_file(base), "control_model.input_blocks.1.0.in_layers.2.weight"
    save_file({**state, name: torch.zeros(48, 32, 3, 3)}, base)
    with pytest.raises(ModelError, match=r"was trained for another base model: 'input_blocks.1.0.in_layers.2.weight'"):
        start(of_family(FAMILY, start=base))
    del state[name]
    save_file(state, base)
    with pytest.raises(ModelError, match=r"lacks 'input_blocks.1.0.in_layers.2.weight': get the file again"):
        start(of_family(FAMILY, start=base))


def test_sdxl_is_refused(settings: Settings) -> None:
    shape = {"block_out_channels": (32, 64), "addition_embed_type": "text_time", "addition_time_embed_dim": 8}
    levels = {"down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"), "up_block_types": ("UpBlock2D",) * 2}
    unet = UNet2DConditionModel(**shape, **levels, projection_class_embeddings_input_dim=80, cross_attention_dim=64)
    with pytest.raises(ModelError, match="a CtrLoRA is for SD 1"):
        CtrLoraRecipe().create(unet, settings)


def test_the_command_trains_on_a_base_that_lies_beside(of_family: Made, base: Path, tmp_path: Path) -> None:
    own = of_family(FAMILY)
    said = f"train --base {own.base} --data {own.data} --hint canny --steps 1 --batch 1 --family {FAMILY}".split()
    out = tmp_path / "second.safetensors"
    with pytest.raises(ModelError, match=f"'{base.name}', lies in '{tmp_path}': give --out {out}"):
        commands.main([*said, "--start", str(base), "--out", str(tmp_path / "deep" / out.name)])
    assert commands.main([*said, "--start", str(base), "--out", str(out), "--samples", "1", "--sample-steps", "1"]) == 0
    with safe_open(out, "pt") as file:
        assert file.metadata()["controlstack.companion"] == base.name
    assert (tmp_path / "second.samples" / "000001.png").is_file()
    assert load_control_model(out).points
