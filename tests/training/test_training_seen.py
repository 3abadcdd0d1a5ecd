"""What a training says and shows: its start, every step's numbers, the curve, sheets with captions, trackers."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from accelerate.state import AcceleratorState
from accelerate.tracking import GeneralTracker
from controlstack import cli
from controlstack.core.errors import HintError
from controlstack.preprocessors.images import read_image
from controlstack.training.data.hints import HintSource
from controlstack.training.loop import train
from controlstack.training.report.bars import Steps, duration, is_told
from controlstack.training.report.curve import Numbers
from controlstack.training.report.opening import asked_processes, millions, opening, too_few_processes
from controlstack.training.report.samples import sample_rows, samples_of
from controlstack.training.settings import Settings
from controlstack.training.start import start


def command(settings: Settings, out: Path, *more: str) -> int:
    """Run `controlstack train` as a user does; returns the exit code."""
    given = f"train --base {settings.base} --data {settings.data} --out {out} --hint canny --batch 2 --resolution 64"
    return cli.main([*given.split(), *more])


def test_the_start_says_on_what_and_with_what(settings: Settings) -> None:
    run = start(replace(settings, samples=2, accumulate=3))
    said = "\n".join(opening(run))
    trained = sum(each.numel() for each in run.network.parameters())
    assert "training a ControlNet over base on 1 example, 4 more held out for samples" in said
    assert "4 steps of 1 process x batch 2 x accumulate 3 = 6 examples, 24.0 epochs" in said
    assert f"on cpu, precision fp32, {millions(trained)} parameters trained of" in said


def test_every_step_has_numbers_from_the_first_one(
    settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "control.safetensors"
    assert command(settings, out, "--steps", "3", "--learning-rate", "1e-3", "--warm-up", "2") == 0
    said = capsys.readouterr().out
    assert all(f"step {step} of 3: loss" in said for step in (1, 2, 3))
    with out.with_suffix(".csv").open(newline="", encoding="utf-8") as file:
        names, *rows = csv.reader(file)
    assert names == ["step", "loss", "learning_rate"]
    assert [row[0] for row in rows] == ["1", "2", "3"]
    assert [float(row[2]) for row in rows] == pytest.approx([5e-4, 1e-3, 1e-3])
    assert all(float(row[1]) > 0 for row in rows)
    assert cv2.imread(str(out.with_suffix(".png"))) is not None


def test_numbers_are_there_while_it_runs_and_go_back_with_the_state(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    numbers = Numbers(path, 0)
    for step in (1, 2, 3):
        numbers.add(step, 0.5, 0.1)
        assert len(path.read_text(encoding="utf-8").splitlines()) == 1 + step
    Numbers(path, 2).add(3, 0.25, 0.1)
    assert [line.split(",")[1] for line in path.read_text(encoding="utf-8").splitlines()[1:]] == ["0.5", "0.5", "0.25"]


def test_a_log_says_how_long_the_rest_takes(capsys: pytest.CaptureFixture[str]) -> None:
    seconds = iter([100.0, 102.0, 104.0])
    steps = Steps(3603, 0, None, clock=lambda: next(seconds))
    for _ in range(3):
        steps.show(0.5)
    first, second, third = capsys.readouterr().out.splitlines()
    assert first == "step 1 of 3603: loss 0.5000"  # the first one also warms up
    assert second == "step 2 of 3603: loss 0.5000, 2 h 0 min left"
    assert third == "step 3 of 3603: loss 0.5000, 2 h 0 min left"


@pytest.mark.parametrize(("seconds", "said"), [(0.2, "1 s"), (40, "40 s"), (100, "2 min"), (12000, "3 h 20 min")])
def test_times_are_said_as_people_say_them(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def test_a_log_has_few_lines() -> None:
    told = [step for step in range(1, 1235) if is_told(step, 1234)]
    assert told[:12] == [*range(1, 11), 20, 30]
    assert told[-4:] == [1000, 1100, 1200, 1234]


def test_sheets_show_the_prompts_that_one_gives(settings: Settings, tmp_path: Path) -> None:
    hint = tmp_path / "hint.png"
    cv2.imwrite(str(hint), cv2.circle(np.zeros((100, 140, 3), np.uint8), (70, 50), 30, (255, 255, 255), 2))
    own = replace(
        settings,
        data=settings.data,
        hints=HintSource(column="depth_image"),
        samples=1,
        sample_prompts=("a star", ""),
        sample_hints=(hint, hint),
        sample_steps=1,
        resolution=64,
    )
    run = start(own)
    assert len(run.examples) == 5  # none is held out
    first, second = samples_of(run)
    assert (first.prompt, second.prompt) == ("a star", "")
    assert first.hint.shape == (64, 64, 3)
    assert first.picture is None
    made = next(samples_of(start(replace(own, hints=HintSource(preprocessor="canny")))))
    assert made.picture is not None
    assert not np.array_equal(made.hint, made.picture)
    before = sample_rows(run)
    next(train(run))
    assert [len(row) for row in before] == [len(row) for row in sample_rows(run)] == [2, 2]
    with pytest.raises(HintError, match="1 --sample-prompt and 2 --sample-hint"):
        replace(own, sample_prompts=("one",))


def test_a_caption_stands_above_what_was_drawn(settings: Settings) -> None:
    own = replace(settings, samples=1, sample_steps=1)
    run = start(own)
    captions = [row[-1][0] for row in sample_rows(run)]
    assert captions[0].startswith("step 0: a ")
    run.losses.append(0.0)
    assert [row[-1][0] for row in sample_rows(run)] == [each.replace("step 0", "step 1") for each in captions]


@pytest.mark.parametrize(
    ("said", "asked"),
    [
        ("python /usr/bin/accelerate launch --num_processes 2 --cpu -m controlstack.cli train", 2),
        ("accelerate launch --num-processes=4 -m controlstack.cli train", 4),
        ("accelerate launch -m controlstack.cli train", None),
        ("bash train.sh --num_processes 2", None),
        ("", None),
    ],
)
def test_the_launcher_is_asked_how_many_processes_were_meant(said: str, asked: int | None) -> None:
    assert asked_processes(said.split()) == asked
    assert (too_few_processes(asked, 1) is None) is (asked is None)


def test_fewer_processes_than_were_asked_for_are_told(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    launched = ["accelerate", "launch", "--num_processes", "3"]
    monkeypatch.setattr("controlstack.training.report.opening.launcher", lambda: launched)
    assert command(settings, tmp_path / "a.safetensors", "--steps", "1") == 0
    assert "warning: 3 processes were asked for, and 1 process trains" in capsys.readouterr().out


class Heard(GeneralTracker):
    """A tracker of accelerate's own kind that remembers."""

    name, requires_logging_directory, main_process_only = "heard", False, True

    def __init__(self) -> None:
        super().__init__()
        self.values: list[tuple[int | None, dict[str, Any]]] = []
        self.config: dict[str, Any] = {}
        self.pictures: list[tuple[int | None, dict[str, Any]]] = []

    @property
    def tracker(self) -> Any:
        return self

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.config = values

    def log(self, values: dict[str, Any], step: int | None = None, **_: Any) -> None:
        self.values.append((step, values))

    def log_images(self, values: dict[str, Any], step: int | None = None) -> None:
        self.pictures.append((step, values))


def test_trackers_hear_settings_and_every_step(settings: Settings, tmp_path: Path) -> None:
    from controlstack.training.report.reporter import Reporter

    AcceleratorState._reset_state(True)
    run = start(replace(settings, steps=2, samples=2, sample_steps=1))
    heard = Heard()
    heard.name = "wandb"  # which takes lists of pictures
    run.settings = replace(run.settings, trackers=("heard",))
    run.accelerator.log_with = [heard]
    with Reporter(run, tmp_path / "a.safetensors") as reporter:
        for loss in train(run):
            reporter.add(loss)
    assert heard.config["batch"] == "2"
    assert [step for step, _ in heard.values] == [1, 2]
    assert [values["loss"] for _, values in heard.values] == run.losses
    assert [step for step, _ in heard.pictures] == [0, 2]
    (sheet,) = heard.pictures[-1][1]["samples"]
    assert np.array_equal(sheet, read_image(tmp_path / "a.samples" / "000002.png"))
    assert Path(run.accelerator.logging_dir) == tmp_path / "a.logs"
    AcceleratorState._reset_state(True)


def test_tensorboard_has_numbers_and_sheets_beside_the_model(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    AcceleratorState._reset_state(True)
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "out" / "a.safetensors"
    more = ("--steps", "2", "--samples", "2", "--sample-steps", "1", "--tracker", "tensorboard")
    assert command(settings, out, *more) == 0
    AcceleratorState._reset_state(True)
    assert [each.name for each in tmp_path.iterdir()] == ["out"]
    events = EventAccumulator(str(tmp_path / "out" / "a.logs" / "controlstack"))
    events.Reload()
    assert [each.step for each in events.Scalars("loss")] == [1, 2]
    assert [each.step for each in events.Images("samples")] == [0, 2]


def test_bad_examples_that_are_left_out_are_counted(
    settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for each in settings.data.iterdir():
        if each.is_dir():
            (tmp_path / each.name).symlink_to(each)
    listing = settings.data / "metadata.jsonl"
    (tmp_path / "metadata.jsonl").write_text(listing.read_text() + '{"file_name": "nowhere.png", "text": ""}\n')
    own = replace(settings, data=tmp_path)
    assert command(own, tmp_path / "out" / "a.safetensors", "--steps", "1") == cli.BAD_INPUT
    assert "line 6 of" in capsys.readouterr().err
    assert command(own, tmp_path / "out" / "a.safetensors", "--steps", "1", "--skip-bad") == 0
    said = capsys.readouterr().out
    assert "1 bad example left out:" in said
    assert "'nowhere.png' is no file" in said


def test_a_plan_trains_nothing(settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "a.safetensors"
    assert command(settings, out, "--plan") == 0
    said = capsys.readouterr().out
    assert "on 5 examples" in said
    assert "GiB" in said
    assert list(tmp_path.iterdir()) == []


def test_help_shows_groups_defaults_and_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["train", "--help"])
    said = capsys.readouterr().out
    assert "what is trained:" in said
    assert "(default: 6000)" in said
    assert "controlstack train --base sd15.safetensors" in said
