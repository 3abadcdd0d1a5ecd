"""What a training leaves and shows: moving averages, sheets of samples, and control models to go on from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from controlstack.core.errors import ControlError, HintError, HostError, ScheduleError
from controlstack.preprocessors.images import write_image
from controlstack.training import commands
from controlstack.training.loop import train
from controlstack.training.report.samples import COLUMNS, draw, drawn_over_steps, sample_rows, samples_of
from controlstack.training.results.model import write_model
from controlstack.training.run import Run
from controlstack.training.settings import Settings
from controlstack.training.start import HELD_OUT, start
from diffusers import DDIMScheduler
from safetensors.torch import load_file, save_file
from torch import Tensor

SIDE = 64  # of the pictures


def _weights(network: torch.nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in network.parameters()])


def _result(run: Run) -> Tensor:
    """The weights as they would be written."""
    with run.result() as trainee:
        return _weights(trainee.control)


def _command(settings: Settings, out: Path, *more: str) -> int:
    arguments = ["train", "--base", settings.base, "--data", settings.data, "--out", out, "--hint", "canny", *more]
    return commands.main([*map(str, arguments), "--batch", "2", "--learning-rate", "1e-3", "--resolution", str(SIDE)])


def test_a_moving_average_follows_its_formula(settings: Settings) -> None:
    run = start(replace(settings, ema=0.75, steps=3))
    expected = None
    for _ in train(run):
        now = _weights(run.network)
        expected = now if expected is None else 0.75 * expected + 0.25 * now
    assert expected is not None
    assert torch.allclose(_result(run), expected, atol=1e-6)
    assert not torch.allclose(_result(run), _weights(run.network), atol=1e-6)


def test_a_moving_average_survives_a_break(settings: Settings, tmp_path: Path) -> None:
    averaged = replace(settings, ema=0.75)
    whole, first, second = start(averaged), start(replace(averaged, steps=2)), start(averaged)
    losses = list(train(whole))
    assert list(train(first)) == losses[:2]
    first.save(tmp_path / "state")
    second.load(tmp_path / "state")
    assert list(train(second)) == losses[2:]
    assert second.losses == losses
    assert _result(second).equal(_result(whole))
    with pytest.raises(HostError, match=r"--ema was 0\.75, now 0\.0"):
        start(settings).load(tmp_path / "state")


def test_the_average_is_what_the_file_holds(settings: Settings, tmp_path: Path) -> None:
    assert _command(settings, tmp_path / "average.safetensors", "--steps", "2", "--ema", "0.5") == 0
    assert _command(settings, tmp_path / "last.safetensors", "--steps", "2") == 0
    assert _command(settings, tmp_path / "first.safetensors", "--steps", "1", "--ema", "0.5") == 0
    average, last, first = (load_file(tmp_path / f"{name}.safetensors") for name in ("average", "last", "first"))
    for key, value in average.items():
        assert torch.allclose(value, (first[key] + last[key]) / 2, atol=1e-5), key


@pytest.fixture
def with_samples(settings: Settings) -> Settings:
    return replace(settings, samples=1, sample_steps=3, sample_guidance=3.0)


def test_a_sample_is_what_the_pipeline_draws(with_samples: Settings) -> None:
    run = start(with_samples)  # untrained, so that the pipeline without control draws the same
    pipeline = run.base
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    samples = list(samples_of(run))
    assert len(samples) == HELD_OUT
    for index, sample in enumerate(samples):
        latents = torch.randn(1, 4, SIDE // 8, SIDE // 8, generator=torch.Generator().manual_seed(index))
        drawn = pipeline(sample.prompt, num_inference_steps=3, guidance_scale=3.0, latents=latents, output_type="np")
        assert np.abs(np.rint(drawn.images[0] * 255) - draw(run, sample, index)).max() <= 1


def test_a_sheet_shows_what_was_learned_and_leaves_the_training_as_it_is(with_samples: Settings) -> None:
    two = replace(with_samples, steps=2, sample_steps=2)
    run, silent = start(two), start(two)
    before = _drawn(run)
    losses = [loss for loss in train(run) if sample_rows(run)]
    assert losses == list(train(silent))
    assert _weights(run.network).equal(_weights(silent.network))
    assert not np.array_equal(before, _drawn(run))


def _drawn(run: Run) -> np.ndarray:
    return np.stack([draw(run, sample, index) for index, sample in enumerate(samples_of(run))])


def test_held_out_examples_are_not_trained_on(with_samples: Settings) -> None:
    run = start(with_samples)  # one of five examples is left to train on
    rows = run.examples.batch(0, 4, seed=0)["hint"]
    assert all(row.equal(rows[0]) for row in rows)
    assert not any(run.held_out.row(index)["hint"].equal(rows[0]) for index in range(HELD_OUT))


def test_the_command_writes_a_sheet_every_n_steps(settings: Settings, tmp_path: Path) -> None:
    more = ("--steps", "4", "--samples", "2", "--sample-steps", "1", "--sample-guidance", "1")
    assert _command(settings, tmp_path / "control.safetensors", *more) == 0
    sheets = sorted((tmp_path / "control.samples").glob("*.png"))
    assert [sheet.name for sheet in sheets] == ["000000.png", "000002.png", "000004.png", "steps.png"]
    height, width = cv2.imread(str(sheets[0])).shape[:2]
    assert height > HELD_OUT * SIDE  # a caption above each row
    assert width > 3 * SIDE
    over_steps = cv2.imread(str(sheets[-1]))
    assert over_steps.shape[1] > 5 * SIDE  # hint, picture, three steps
    drawn = cv2.imread(str(tmp_path / "control.samples" / "drawn" / "000002-1.png"))
    assert _contains(over_steps, drawn)


def _contains(picture: np.ndarray, part: np.ndarray) -> bool:
    return float(cv2.matchTemplate(picture, part, cv2.TM_SQDIFF_NORMED).min()) < 1e-4


def test_of_many_steps_some_are_shown_evenly(tmp_path: Path) -> None:
    for step in range(0, 5000, 100):
        write_image(tmp_path / f"{step:06d}-1.png", np.zeros((8, 8, 3), np.uint8))
    labels = [label for label, _ in drawn_over_steps(tmp_path, 1)]
    assert len(labels) == COLUMNS
    assert (labels[0], labels[-1]) == ("step 0", "step 4900")
    assert drawn_over_steps(tmp_path, 0) == []


def test_a_training_goes_on_from_another_control(settings: Settings, tmp_path: Path) -> None:
    out = tmp_path / "first.safetensors"
    assert _command(settings, out, "--steps", "2") == 0
    run = start(replace(settings, start=out))
    assert {key: value.tolist() for key, value in run.network.state_dict().items()} == {
        key: value.tolist() for key, value in load_file(out).items()
    }
    before = _weights(run.network)
    list(train(run))
    moved = (_weights(run.network) != before).float().mean()
    assert moved > 0.99  # nothing is asleep: the zero convolutions are awake already
    assert all(parameter.requires_grad for parameter in run.network.parameters())


def _changed(source: Path, target: Path, name: str) -> None:
    """A control whose tensors or metadata do not fit the tiny base."""
    tensors = load_file(source)
    metadata = {"controlstack.family": "controlnet", "controlstack.heads": "4", "controlstack.norm_groups": "8"}
    if name == "pooled":
        metadata["controlstack.global_average_pooling"] = "true"
    if name == "swapped":
        metadata["controlstack.hint_order"] = "bgr"
    if name == "of another base":
        tensors = {
            key: torch.zeros(len(value), 96) if "attn2.to_k" in key or "attn2.to_v" in key else value
            for key, value in tensors.items()
        }
    save_file(tensors, target, metadata)


@pytest.mark.parametrize(
    ("name", "words"),
    [("pooled", "averages"), ("swapped", "red and blue"), ("of another base", "96"), ("nowhere", "nowhere")],
)
def test_a_control_that_cannot_be_trained_on_is_refused(
    settings: Settings, tmp_path: Path, name: str, words: str
) -> None:
    if name != "nowhere":
        source = tmp_path / "first.safetensors"
        write_model(start(settings), source)
        _changed(source, tmp_path / f"{name}.safetensors", name)
    with pytest.raises(ControlError, match=words):
        start(replace(settings, start=tmp_path / f"{name}.safetensors"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"ema": 1.0}, "moving average"),
        ({"samples": -1}, "--samples is -1"),
        ({"sample_steps": 0}, "--sample-steps is 0"),
        ({"learning_rate": float("nan")}, "--learning-rate is nan"),
        ({"schedule": "wavy"}, "--schedule is 'wavy'"),
    ],
)
def test_senseless_settings_are_refused(settings: Settings, change: dict[str, float], words: str) -> None:
    with pytest.raises(ScheduleError, match=words):
        replace(settings, **change)


def test_too_few_examples_to_hold_some_out(with_samples: Settings, tmp_path: Path) -> None:
    lines = (with_samples.data / "metadata.jsonl").read_text().splitlines()[:HELD_OUT]
    for folder in with_samples.data.iterdir():
        if folder.is_dir():
            (tmp_path / folder.name).symlink_to(folder)
        else:
            (tmp_path / folder.name).write_bytes(folder.read_bytes())
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
    with pytest.raises(HintError, match="hold out"):
        start(replace(with_samples, data=tmp_path))
