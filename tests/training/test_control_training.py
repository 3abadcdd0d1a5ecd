"""Training a control, seen from inside: what is zero, what moves, and in which order."""

from __future__ import annotations

import json
import signal
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from controlstack.core.errors import HintError, HostError
from controlstack.models.families.controlnet.config import ControlNetConfig, ControlNetSettings
from controlstack.models.families.controlnet.network import ControlNet
from controlstack.models.files.loading import read_header
from controlstack.models.files.sources import read_settings
from controlstack.training import commands
from controlstack.training.data.hints import HintSource, Reader
from controlstack.training.interrupts import interrupts_wait
from controlstack.training.loop import dropped, loss_of, target_of, train
from controlstack.training.recipes.copies import copy_of_encoder
from controlstack.training.report.curve import write_curve
from controlstack.training.results.model import metadata
from controlstack.training.run import Run
from controlstack.training.settings import Settings
from controlstack.training.start import start
from controlstack.training.words import Words, emptied
from diffusers import DDIMScheduler, UNet2DConditionModel
from safetensors import safe_open
from torch import Tensor

FROZEN = ("unet", "vae", "text_encoder")


def _inputs(unet: UNet2DConditionModel) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    width = unet.config["cross_attention_dim"]
    return torch.randn(2, 4, 16, 16), torch.tensor([10, 600]), torch.rand(2, 3, 128, 128), torch.randn(2, 16, width)


@torch.no_grad()
def test_an_untrained_control_adds_exactly_nothing(settings: Settings) -> None:
    run = start(settings)
    x, time, hint, context = _inputs(run.base.unet)
    plain = run.base.unet(x, time, context).sample
    assert run.plain(x, time, hint, Words(context)).equal(plain)


def test_the_copy_equals_the_encoder(settings: Settings) -> None:
    unet = start(settings).base.unet
    network = copy_of_encoder(unet)
    weight = unet.state_dict()["down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.weight"]
    assert network.state_dict()["input_blocks.3.1.transformer_blocks.0.attn2.to_k.weight"].equal(weight)
    assert not any(parameter.equal(weight) and parameter is weight for parameter in network.parameters())


def _moved(run: Run, before: dict[str, Tensor]) -> dict[str, bool]:
    """Which parts of the network changed."""
    after = run.network.state_dict()
    parts = {"zero": ("zero_convs", "middle_block_out"), "hint_last": ("input_hint_block.14",)}
    changed = {key for key, value in after.items() if not value.equal(before[key])}
    rest = {key for key in changed if not key.startswith((*parts["zero"], "input_hint_block"))}
    return {
        **{name: any(key.startswith(prefixes) for key in changed) for name, prefixes in parts.items()},
        "copy": bool(rest),
        "hint": any(key.startswith("input_hint_block") and not key.startswith(parts["hint_last"]) for key in changed),
    }


def test_zero_convolutions_wake_first_then_the_copy_then_the_hint_encoder(settings: Settings) -> None:
    run = start(settings)
    optimiser = torch.optim.SGD(run.network.parameters(), 1.0)
    expected = [
        {"zero": True, "hint_last": False, "copy": False, "hint": False},
        {"zero": True, "hint_last": True, "copy": True, "hint": False},
        {"zero": True, "hint_last": True, "copy": True, "hint": True},
    ]
    for step, wanted in enumerate(expected):
        before = {key: value.clone() for key, value in run.network.state_dict().items()}
        optimiser.zero_grad()
        loss_of(run, run.examples.batch(2 * step, 2, seed=0)).backward()
        optimiser.step()
        assert _moved(run, before) == wanted
    assert all(parameter.grad is None for parameter in run.base.unet.parameters())
    run.plain.release()


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_targets_follow_their_formulas(kind: str) -> None:
    scheduler = DDIMScheduler(prediction_type=kind, steps_offset=1)
    latents, noise, time = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8), torch.tensor([3, 700])
    a = scheduler.alphas_cumprod[time].sqrt().view(2, 1, 1, 1)
    s = (1 - scheduler.alphas_cumprod[time]).sqrt().view(2, 1, 1, 1)
    expected = noise if kind == "epsilon" else a * noise - s * latents
    assert torch.allclose(target_of(scheduler, latents, noise, time), expected, atol=1e-6)


def test_a_base_that_predicts_something_else_is_refused() -> None:
    with pytest.raises(HostError, match="predicts 'sample'"):
        target_of(DDIMScheduler(prediction_type="sample", steps_offset=1), *(torch.zeros(1),) * 2, torch.zeros(1))


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_prompts_are_emptied_in_their_share(settings: Settings, share: float) -> None:
    drop = dropped(start(replace(settings, batch=1000)), share)
    assert abs(float(drop.float().mean()) - share) < 0.06


def test_an_emptied_prompt_is_the_empty_one(settings: Settings) -> None:
    encoder = start(settings).encoder
    star, empty = encoder.words("a red star on blue"), encoder.words("")
    twice = {name: torch.stack([each, each]) for name, each in star.items()}
    found = emptied(twice, empty, torch.tensor([True, False]))["context"]
    assert found.equal(torch.stack([empty["context"], star["context"]]))
    assert not empty["context"].equal(star["context"])


def test_emptying_all_prompts_changes_what_is_learned(settings: Settings) -> None:
    losses = [list(train(start(replace(settings, steps=1, empty_prompts=share)))) for share in (0.0, 1.0)]
    assert losses[0] != losses[1]


def _weights(run: Run) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in run.network.parameters()])


def test_a_resumed_training_equals_an_uninterrupted_one(settings: Settings, tmp_path: Path) -> None:
    whole = start(settings)
    losses = list(train(whole))
    first = start(replace(settings, steps=2))
    head = list(train(first))
    first.save(tmp_path / "state")
    second = start(settings)
    second.load(tmp_path / "state")
    assert head + list(train(second)) == losses
    assert _weights(second).equal(_weights(whole))


def test_accumulation_updates_once_a_step(settings: Settings) -> None:
    run = start(replace(settings, accumulate=2, steps=2))
    assert len(list(train(run))) == 2
    assert {float(state["step"]) for state in run.optimiser.state_dict()["state"].values()} == {2.0}


def test_the_command_writes_a_file_that_says_what_it_is(settings: Settings, tmp_path: Path) -> None:
    out = tmp_path / "canny.safetensors"
    arguments = f"train --base {settings.base} --data {settings.data} --out {out} --hint canny --steps 2 --batch 2"
    assert commands.main([*arguments.split(), "--hint-parameters", "low=50", "--dtype", "fp16"]) == 0
    with safe_open(out, "pt") as file:
        metadata, keys = file.metadata(), list(file.keys())
        shapes = {key: tuple(file.get_slice(key).get_shape()) for key in keys}
    assert metadata["controlstack.family"] == "controlnet"
    assert metadata["controlstack.hint"] == "canny(low=50,high=200)"
    given = read_settings(ControlNetSettings, read_header(out))
    assert shapes == {
        key: tuple(value.shape)
        for key, value in ControlNet(ControlNetConfig.from_shapes(shapes, given)).state_dict().items()
    }
    assert cv2.imread(str(out.with_suffix(".png"))) is not None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["canny.csv", "canny.png", "canny.safetensors"]


def _mixed_pictures(folder: Path) -> None:
    """Pictures of different sizes whose hint is the picture itself."""
    lines = []
    for number, (height, width) in enumerate([(64, 96), (140, 100), (130, 333)]):
        pixels = np.random.default_rng(number).integers(0, 255, (height, width, 3), np.uint8)
        cv2.imwrite(str(folder / f"{number}.png"), cv2.GaussianBlur(pixels, (0, 0), 8))
        lines.append({"file_name": f"{number}.png", "text": "a", "conditioning_image": f"{number}.png"})
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")


def test_pictures_of_any_size_are_cut_to_squares(settings: Settings, tmp_path: Path) -> None:
    _mixed_pictures(tmp_path)
    run = start(replace(settings, data=tmp_path, hints=HintSource(), steps=2))
    for example in run.checked.examples:
        picture, hint = Reader((HintSource(),), 64)(example)
        assert picture.shape == hint.shape == (64, 64, 3)
        assert np.abs(picture.astype(int) - hint).mean() < 8  # filters differ, places do not
    assert len(list(train(run))) == 2


def test_pictures_of_different_sizes_are_refused_before_the_first_step(settings: Settings, tmp_path: Path) -> None:
    _mixed_pictures(tmp_path)
    (tmp_path / "2.png").write_bytes((tmp_path / "0.png").read_bytes())
    cv2.imwrite(str(tmp_path / "1.png"), np.zeros((64, 64, 3), np.uint8))
    with pytest.raises(HintError, match=r"line 2 .*64x64, the first one 96x64.*--resolution"):
        start(replace(settings, data=tmp_path, hints=HintSource(), batch=3, resolution=0))
    with pytest.raises(HintError, match="multiple of 8"):
        replace(settings, resolution=100)


def test_what_has_no_room_is_read_again_and_the_same(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    roomy = list(train(start(settings)))
    monkeypatch.setattr("controlstack.training.data.examples.KEPT", 0)
    assert list(train(start(settings))) == roomy


def test_a_missing_base_or_checkpoint_is_refused(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(HostError, match="expected a diffusers folder"):
        start(replace(settings, base=tmp_path))
    with pytest.raises(HostError, match="--resume"):
        start(settings).load(tmp_path / "nothing.state")


def test_the_defaults_are_the_papers(settings: Settings) -> None:
    """Half of the prompts emptied (section 3.3), AdamW at 1e-5 (the published tutorial), all residuals trained."""
    plain = Settings(base=settings.base, data=settings.data, hints=settings.hints)
    run = start(plain)
    assert (run.settings.empty_prompts, run.settings.learning_rate, plain.only_middle) == (0.5, 1e-5, False)
    optimiser = run.optimiser
    assert isinstance(getattr(optimiser, "optimizer", optimiser), torch.optim.AdamW)


def test_mixed_precision_keeps_the_weights_in_full(settings: Settings) -> None:
    losses = [list(train(start(settings)))]
    AcceleratorState._reset_state(True)  # accelerate keeps one precision for a process
    mixed = start(replace(settings, mixed_precision="bf16"))
    losses.append(list(train(mixed)))
    AcceleratorState._reset_state(True)
    assert losses[0] != losses[1]
    assert np.allclose(*losses, rtol=0.05)
    assert {weight.dtype for weight in mixed.network.parameters()} == {torch.float32}


def test_only_the_middle_learns_where_that_is_asked_for(settings: Settings) -> None:
    run = start(replace(settings, only_middle=True, steps=2))
    list(train(run))
    state = run.network.state_dict()
    assert all(not value.any() for key, value in state.items() if key.startswith("zero_convs"))
    assert state["middle_block_out.0.weight"].any()
    assert metadata(run)["controlstack.only_middle"] == "true"


def test_the_base_stays_as_it_is(settings: Settings) -> None:
    run = start(settings)
    before = {name: [weight.clone() for weight in getattr(run.base, name).parameters()] for name in FROZEN}
    list(train(run))
    assert all(
        old.equal(new)
        for name in FROZEN
        for old, new in zip(before[name], getattr(run.base, name).parameters(), strict=True)
    )


@pytest.mark.parametrize("steps", [5, 100, 3000])
def test_a_loss_curve_falls_as_its_losses_do(tmp_path: Path, steps: int) -> None:
    write_curve([10 ** (-3 * k / steps) for k in range(steps)], tmp_path / "curve.png")
    blue, _, red = np.moveaxis(cv2.imread(str(tmp_path / "curve.png")).astype(int), 2, 0)
    line = blue - red > 60
    columns = np.flatnonzero(line.any(axis=0))
    heights = np.array([np.flatnonzero(line[:, column]).mean() for column in columns])
    assert columns[-1] - columns[0] > 400
    assert np.all(np.diff(heights) >= -1)  # rows count downward
    assert heights[-1] - heights[0] > 150


def test_a_single_step_has_a_curve(tmp_path: Path) -> None:
    write_curve([0.5], tmp_path / "curve.png")
    assert (cv2.imread(str(tmp_path / "curve.png")) < 255).any()


def test_a_loss_curve_goes_on_after_a_break(settings: Settings, tmp_path: Path) -> None:
    first = start(replace(settings, steps=2))
    list(train(first))
    first.save(tmp_path / "state")
    second = start(settings)
    second.load(tmp_path / "state")
    list(train(second))
    assert len(second.losses) == settings.steps
    assert second.losses[:2] == first.losses


def test_a_second_interrupt_does_not_wait() -> None:
    before = signal.getsignal(signal.SIGINT)
    with interrupts_wait() as interrupted:
        assert not interrupted()
        signal.raise_signal(signal.SIGINT)
        assert interrupted()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
