"""A trained control for other programs and other bases."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from controlstack import cli
from controlstack.core.errors import UnsupportedModelError
from controlstack.core.schedule import progress_at
from controlstack.core.step import Step
from controlstack.models.kinds.unions import OPTION
from controlstack.models.naming import to_ldm
from controlstack.models.registry import load_control_model
from controlstack.training.loop import train
from controlstack.training.recipes.copies import copy_of_encoder
from controlstack.training.results.export import check_export, write_folder
from controlstack.training.results.model import write_model
from controlstack.training.results.transfer import carried, transfer
from controlstack.training.settings import Settings
from controlstack.training.start import start
from diffusers import ControlNetModel, ControlNetUnionModel, StableDiffusionPipeline, T2IAdapter
from safetensors.torch import load_file

BLOCKS = 2  # as in the tiny world: some families count them


def test_a_controlnet_is_a_folder_that_diffusers_loads(settings: Settings, tmp_path: Path) -> None:
    run = start(replace(settings, steps=3, warm_up=0))
    list(train(run))
    out = tmp_path / "control.safetensors"
    write_model(run, out)
    theirs = ControlNetModel.from_pretrained(write_folder(run, out))
    x, time, hint = torch.randn(1, 4, 16, 16), torch.tensor([500]), torch.rand(1, 3, 128, 128)
    context = torch.randn(1, 16, 64)
    with torch.no_grad():
        skips, middle = theirs(x, time, context, hint, return_dict=False)
        ours = run.network(x, time, hint, context)
    assert middle.abs().max() > 0
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(ours, [*skips, middle], strict=True))
    again = load_control_model(tmp_path / "control.diffusers").network.state_dict()
    assert all(again[name].equal(each) for name, each in load_file(out).items())


@torch.no_grad()
def test_a_union_is_a_folder_that_diffusers_loads(of_family: Callable[..., Settings], tmp_path: Path) -> None:
    run = start(of_family("union"))
    for weight in run.network.parameters():
        weight.copy_(0.1 * torch.randn(weight.shape))
    out = tmp_path / "union.safetensors"
    write_model(run, out)
    theirs = ControlNetUnionModel.from_pretrained(write_folder(run, out))
    x, time, hint = torch.randn(1, 4, 16, 16), torch.tensor([500]), torch.rand(1, 3, 128, 128)
    context, canny = torch.randn(1, 16, 64), 3
    there = torch.nn.functional.one_hot(torch.tensor([canny]), theirs.config.num_control_type).float()
    skips, middle = theirs(x, time, context, [hint], there, [canny], [1.0], return_dict=False)
    model = load_control_model(out).bind({OPTION: "canny"})
    step = Step(x=x, timestep=time, context=context, cond=(True,), progress=progress_at(0, 1))
    ours = [each for _, each in model(step, model.prepare(hint), model.encode(context), model.points)]
    assert middle.abs().max() > 0
    assert all(torch.allclose(a, b, atol=1e-5, rtol=1e-4) for a, b in zip(ours, [*skips, middle], strict=True))


@torch.no_grad()
def test_an_adapter_is_a_folder_that_diffusers_loads(settings: Settings, tmp_path: Path) -> None:
    run = start(replace(settings, family="t2i-adapter"))
    out = tmp_path / "adapter.safetensors"
    write_model(run, out)
    theirs = T2IAdapter.from_pretrained(write_folder(run, out))
    hint = torch.rand(1, 3, 128, 128)
    ours = run.network(hint)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(ours, theirs(hint), strict=True))


def test_what_diffusers_has_no_class_for_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="no class for controlnet-lite"):
        check_export("controlnet-lite")
    check_export("t2i-adapter")


def _other_base(source: Path, folder: Path) -> Path:
    """Another base of the same shape."""
    pipeline = StableDiffusionPipeline.from_pretrained(source, safety_checker=None)
    generator = torch.Generator().manual_seed(7)
    for parameter in pipeline.unet.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    pipeline.save_pretrained(folder)
    return folder


def test_an_untrained_control_carried_over_is_a_copy_of_the_new_base(settings: Settings, tmp_path: Path) -> None:
    """W_control = W_from, so W_from + W_to - W_from = W_to."""
    out, new = tmp_path / "control.safetensors", _other_base(settings.base, tmp_path / "other")
    write_model(start(settings), out)
    assert transfer(out, settings.base, new, tmp_path / "moved.safetensors", "fp32") > 100
    unet = start(replace(settings, base=new)).base.unet
    expected, found = copy_of_encoder(unet).state_dict(), load_file(tmp_path / "moved.safetensors")
    base = to_ldm(unet.state_dict())
    shared = [name for name in found if name in base]
    assert len(shared) > 100
    assert all(torch.allclose(found[name], expected[name], atol=1e-6) for name in shared)
    kept = load_file(out)
    assert all(found[name].equal(kept[name]) for name in found if name not in base)
    assert load_control_model(tmp_path / "moved.safetensors").base.blocks


def test_what_was_learned_is_carried_over() -> None:
    state, before, after = ({"a": torch.tensor([value])} for value in (5.0, 3.0, 10.0))
    assert carried({**state, "zero": torch.ones(1)}, before, after) == {
        "a": torch.tensor([12.0]),
        "zero": torch.ones(1),
    }


def test_the_command_transfers(settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "control.safetensors"
    write_model(start(settings), out)
    moved = tmp_path / "moved.safetensors"
    given = f"transfer {out} --from {settings.base} --to {settings.base} --out {moved} --dtype fp32"
    assert cli.main(given.split()) == 0
    assert "weights carried over" in capsys.readouterr().out
    assert all(torch.allclose(each, load_file(out)[name], atol=1e-6) for name, each in load_file(moved).items())


def test_only_controls_of_that_base_are_carried_over(settings: Settings, tmp_path: Path) -> None:
    lite = tmp_path / "lite.safetensors"
    write_model(start(replace(settings, family="controlnet-lite")), lite)
    with pytest.raises(UnsupportedModelError, match="no ControlNet"):
        transfer(lite, settings.base, settings.base, tmp_path / "x.safetensors", "fp16")


def test_a_folder_says_that_the_base_has_changed_too(
    settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = f"train --base {settings.base} --data {settings.data} --hint canny --batch 2 --steps 1 --resolution 64"
    given += f" --unlock decoder --diffusers --out {tmp_path / 'control.safetensors'}"
    assert cli.main(given.split()) == 0
    said = capsys.readouterr().out
    assert "control.diffusers, the control alone: load 'control_unet_weight_increasements.safetensors' into" in said
