"""What a training leaves when it does not go well: its last good state, whole, and a word on how to go on."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from controlstack import cli
from controlstack.core.errors import DivergedError, HostError
from controlstack.models.registry import load_control_model
from controlstack.training import loop
from controlstack.training.loop import train
from controlstack.training.results.alone import alone
from controlstack.training.results.checkpoints import keep_last, snapshot_path, snapshots, write_checkpoint
from controlstack.training.results.files import recover, write_tensors
from controlstack.training.run import Run
from controlstack.training.settings import Settings
from controlstack.training.start import start
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[2]


def command(settings: Settings, out: Path, *more: str) -> int:
    """Run `controlstack train` as a user does; returns the exit code."""
    given = f"train --base {settings.base} --data {settings.data} --out {out} --hint canny --batch 2 --warm-up 0"
    given += f" --resolution {settings.resolution}"
    return cli.main([*given.split(), *more])


def weights(run: Run) -> torch.Tensor:
    return torch.cat([each.detach().flatten() for _, each in run.plain.trained()])


def test_a_training_that_diverges_ends_with_its_last_good_state(
    settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "control.safetensors"
    assert command(settings, out, "--steps", "2", "--save-every", "2") == 0
    good, state = out.read_bytes(), out.with_suffix(".state").read_bytes()
    capsys.readouterr()
    more = ("--resume", "--steps", "8", "--learning-rate", "1e30", "--change", "learning-rate", "--save-every", "1")
    assert command(settings, out, *more) == cli.BAD_INPUT
    said = capsys.readouterr().err
    assert "not finite" in said or "the loss is" in said
    assert "control.state" in said
    assert out.read_bytes() == good
    run = start(replace(settings, learning_rate=1e30, warm_up=0))
    run.load(out.with_suffix(".state"), ["learning_rate"])
    assert run.is_finite()
    assert len(state) > 1000


def test_weights_change_only_while_all_is_finite(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    run = start(settings)
    next(train(run))
    before, loss_of = weights(run), loop.loss_of
    monkeypatch.setattr(loop, "loss_of", lambda *given: loss_of(*given) * float("nan"))
    with pytest.raises(DivergedError, match=r"step 2 of 4: the loss is nan.*--learning-rate \(now 0\.001\)"):
        next(train(run))
    assert weights(run).equal(before)
    assert run.step == 1


def test_a_damaged_base_is_named(settings: Settings) -> None:
    run = start(settings)
    run.base.unet.conv_in.weight.data[0] = float("nan")
    with pytest.raises(DivergedError, match=r"the weight 'conv_in\.weight' of the base model's unet holds NaN"):
        next(train(run))


def test_gradients_that_are_not_finite_change_nothing(settings: Settings) -> None:
    run = start(settings)
    before = weights(run)
    name, one = next(iter(run.plain.trained()))
    one.register_hook(lambda grad: grad * float("inf"))
    with pytest.raises(DivergedError, match="gradients"):
        next(train(run))
    assert weights(run).equal(before), name


def test_any_error_saves_a_checkpoint_first(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, taken, loss_of = tmp_path / "control.safetensors", [], loop.loss_of

    def fails(run: Run, batch: Any, number: int) -> Any:
        taken.append(batch)
        loss = loss_of(run, batch, number)  # random numbers are drawn: going on must draw them again
        if len(taken) == 3:
            raise RuntimeError("out of memory")
        return loss

    assert command(settings, tmp_path / "whole.safetensors", "--steps", "4") == 0
    with monkeypatch.context() as patched:
        patched.setattr(loop, "loss_of", fails)
        with pytest.raises(RuntimeError, match="out of memory"):
            command(settings, out, "--steps", "4")
    assert "RuntimeError after step 2" in capsys.readouterr().err
    assert command(settings, out, "--steps", "4", "--resume") == 0
    assert "goes on after step 2" in capsys.readouterr().out
    whole, resumed = load_file(tmp_path / "whole.safetensors"), load_file(out)
    assert all(resumed[name].equal(each) for name, each in whole.items())
    assert _rows(out) == _rows(tmp_path / "whole.safetensors")


def _rows(out: Path) -> list[str]:
    return out.with_suffix(".csv").read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("said", [signal.SIGINT, signal.SIGTERM])  # Ctrl-C, and that of a cluster's scheduler
def test_an_interrupt_leaves_a_usable_model(
    settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    said: signal.Signals,
) -> None:
    loss_of, out = loop.loss_of, tmp_path / "control.safetensors"

    def interrupted(run: Run, batch: Any, number: int) -> Any:
        if run.step == 1:
            signal.raise_signal(said)
        return loss_of(run, batch, number)

    with monkeypatch.context() as patched:
        patched.setattr(loop, "loss_of", interrupted)
        assert command(settings, out, "--steps", "4") == cli.INTERRUPTED
    assert f"stopped after step 2: wrote {out}; go on with --resume" in capsys.readouterr().err
    assert load_control_model(out).base.blocks
    assert command(settings, out, "--steps", "3", "--resume") == 0


def test_a_snapshot_that_a_break_left_out_is_written_when_a_training_goes_on(
    settings: Settings, tmp_path: Path
) -> None:
    out = tmp_path / "control.safetensors"
    assert command(settings, out, "--steps", "2", "--save-every", "2") == 0
    before = load_file(snapshot_path(out, 2))
    snapshot_path(out, 2).unlink()
    assert command(settings, out, "--steps", "3", "--save-every", "2", "--resume") == 0
    after = load_file(snapshot_path(out, 2))
    assert all(after[name].equal(each) for name, each in before.items())


def test_snapshots_are_usable_and_the_last_ones_stay(settings: Settings, tmp_path: Path) -> None:
    out = tmp_path / "control.safetensors"
    assert command(settings, out, "--steps", "4", "--save-every", "1", "--keep", "2") == 0
    assert [path.name for path in snapshots(out)] == ["control-000003.safetensors", "control-000004.safetensors"]
    assert load_control_model(snapshots(out)[0]).base.blocks
    last, final = load_file(snapshots(out)[-1]), load_file(out)
    assert all(last[name].equal(each) for name, each in final.items())
    keep_last(out, 1)
    assert snapshots(out) == [snapshot_path(out, 4)]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (["--learning-rate", "0.01"], "--learning-rate was 1e-05, now 0.01"),
        (["--accumulate", "2"], "--accumulate was 1, now 2"),
        (["--only-middle"], "--only-middle was False, now True"),
        (["--seed", "5"], "--seed was 0, now 5"),
        (["--hint-parameters", "low=50"], "--hints was"),
        (["--data", "{data}"], "--data was"),
    ],
)
def test_other_settings_are_refused_unless_told(
    settings: Settings, state: Path, capsys: pytest.CaptureFixture[str], change: list[str], words: str
) -> None:
    own = settings
    if change[0] == "--data":
        own, change = replace(settings, data=_shorter(settings.data, state.parent / "other")), []
    assert command(own, state.with_suffix(".safetensors"), "--steps", "2", "--resume", *change) == cli.BAD_INPUT
    said = capsys.readouterr().err
    assert words in said
    assert "--change" in said


@pytest.fixture(scope="module")
def state(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a training of one step."""
    folder = tmp_path_factory.mktemp("state")
    arguments = f"train --base {world / 'base'} --data {world / 'data'} --hint canny --batch 2 --steps 1 --warm-up 0"
    arguments += " --resolution 64 --save-every 1"
    assert cli.main([*arguments.split(), "--out", str(folder / "control.safetensors")]) == 0
    return folder / "control.state"


def _shorter(data: Path, other: Path) -> Path:
    """The same data without its last example."""
    other.mkdir(exist_ok=True)
    for each in data.iterdir():
        if each.is_dir() and not (other / each.name).exists():
            (other / each.name).symlink_to(each)
    lines = (data / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
    (other / "metadata.jsonl").write_text("\n".join(lines[:-1]), encoding="utf-8")
    return other


def test_a_learning_rate_that_is_told_to_change_does(settings: Settings, state: Path) -> None:
    own = replace(settings, learning_rate=None, warm_up=0, steps=2)
    slow, fast = start(own), start(replace(own, learning_rate=0.01))
    slow.load(state)
    assert fast.load(state, ["learning_rate"]) == ["--learning-rate 1e-05 -> 0.01"]
    before = weights(slow)
    assert weights(fast).equal(before)
    next(train(slow))
    next(train(fast))
    step = [(weights(run) - before).abs().mean() for run in (slow, fast)]
    assert 300 < float(step[1] / step[0]) < 3000


def test_a_checkpoint_that_is_none_is_a_sentence(settings: Settings, tmp_path: Path) -> None:
    run = start(settings)
    (tmp_path / "cut.state").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(HostError, match="damaged checkpoint"):
        run.load(tmp_path / "cut.state")
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.state")
    with pytest.raises(HostError, match="no checkpoint of such a run"):
        run.load(tmp_path / "other.state")


@pytest.mark.skipif(sys.platform == "win32", reason="files have no such modes there")
def test_a_second_training_of_one_model_is_refused_while_the_first_writes(
    settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "control.safetensors"
    with alone(tmp_path / "sub" / ".." / out.name):  # however it is said
        assert command(settings, out, "--steps", "1") == cli.BAD_INPUT
        assert f"another training is writing '{out}': wait for its end" in capsys.readouterr().err
        assert not list(tmp_path.iterdir())
    assert command(settings, out, "--steps", "1") == 0


def test_files_can_be_read_by_others(settings: Settings, tmp_path: Path) -> None:
    out = tmp_path / "control.safetensors"
    before = os.umask(0o022)
    try:
        assert command(settings, out, "--steps", "1", "--save-every", "1") == 0
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*") if path.is_file()}
    assert set(modes.values()) == {0o644}, modes


def test_what_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HostError, match="cannot write"):
        write_tensors(tmp_path / "file" / "a.safetensors", {"a": torch.zeros(1)}, {})
    with pytest.raises(HostError, match="cannot write the checkpoint"):
        write_checkpoint(tmp_path / "file" / "a.state", {})


@pytest.fixture
def full() -> Iterator[Callable[[int], None]]:
    """Let no file grow beyond some bytes, as on a disk that is full by then; undone at the end."""
    resource = pytest.importorskip("resource", reason="of POSIX")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_a_sentence_and_leaves_the_last_good_state(
    settings: Settings, tmp_path: Path, full: Callable[[int], None], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "control.safetensors"
    assert command(settings, out, "--steps", "1", "--save-every", "1") == 0
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.suffix in (".safetensors", ".state")}
    assert len(files) == 3
    full(100_000)
    assert command(settings, out, "--steps", "3", "--save-every", "1", "--resume") == cli.BAD_INPUT
    *_, told, sentence = capsys.readouterr().err.splitlines()
    assert "an error after step 2: the last checkpoint, '" in told
    assert "control.state': File too large: make room" in sentence
    assert {path: path.read_bytes() for path in files} == files
    assert not list(tmp_path.rglob(".*"))


KILLED = """
import importlib.util, os, pathlib, signal, sys
spec = importlib.util.spec_from_file_location("controlstack", sys.argv[1])
sys.modules["controlstack"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["controlstack"])
from controlstack.training.results.checkpoints import snapshot_path, write_checkpoint
from controlstack.training.results.files import replace_folder, write_tensors
import torch

def write(out, value):
    write_checkpoint(out.with_suffix(".state"), {"losses": [1.0] * value})
    write_tensors(snapshot_path(out, value), {"a": torch.full((1000,), float(value))}, {})
    write_tensors(out, {"a": torch.full((1000,), float(value))}, {})
    def save(folder):
        folder.mkdir()
        (folder / "a").write_text(str(value))
    replace_folder(out.with_suffix(".diffusers"), save)

def die_at(moves):
    left, move = [moves], os.replace
    def moved(source, target):
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return move(source, target)
    pathlib.Path.replace = os.replace = moved

for moves in range(1, 7):
    out = pathlib.Path(sys.argv[2], str(moves), "control.safetensors")
    write(out, 1)
    child = os.fork()
    if child == 0:
        die_at(moves)
        write(out, 2)
        os._exit(0)
    os.waitpid(child, 0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")
def test_a_kill_between_two_files_leaves_the_last_good_state(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", KILLED, str(ROOT / "__init__.py"), str(tmp_path)], check=True)
    found = [_left(tmp_path / str(moves) / "control.safetensors") for moves in range(1, 7)]
    assert found == [(1, 1, 1), (2, 1, 1), (2, 1, 1), (2, 2, 1), (2, 2, 1), (2, 2, 2)]


def _left(out: Path) -> tuple[int, int, int]:
    """Which state, model and folder are there after a process was killed at its n-th move of a file."""
    exported = out.with_suffix(".diffusers")
    recover(exported)
    state = torch.load(out.with_suffix(".state"), weights_only=True)
    return len(state["losses"]), int(load_file(out)["a"].mean()), int((exported / "a").read_text())
