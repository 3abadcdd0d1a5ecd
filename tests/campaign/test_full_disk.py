"""A disk that is full, and two processes that write into one folder: a sentence, and no half of a file."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from controlstack.cli import main
from controlstack.pipelines.tiny_world import BASE, CONTROLS, IMAGES
from controlstack.preprocessors.images import read_image
from controlstack.training.tiny.scenes import write_dataset

resource = pytest.importorskip("resource", reason="this system has no limit for the size of files")
pytestmark = [pytest.mark.campaign, pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")]

PICTURES = [str(path) for path in sorted(IMAGES.glob("scene-*.png"))]
UNIT = f"image={PICTURES[0]},preprocessor=canny,model={CONTROLS / 'canny.safetensors'}"
SMALL = ["--steps", "1", "--width", "64", "--height", "64"]


Started = tuple[int, int]  # a process, and where it speaks


def _start(argv: Sequence[str], room: int | None = None) -> Started:
    """Start a command in a process of its own, whose files may have `room` bytes."""
    reading, writing = os.pipe()  # a pipe is no file, so the limit does not bound what is said
    child = os.fork()
    if child:
        os.close(writing)
        return child, reading
    code = 70
    try:
        with os.fdopen(writing, "w") as sys.stdout:
            sys.stderr = sys.stdout
            if room is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
            try:
                code = main(argv)
            except BaseException:  # noqa: BLE001 - what a user would see as a traceback
                traceback.print_exc()
    finally:
        os._exit(code)


def _end(started: Started) -> tuple[int, str]:
    """Return the exit code of a process, and what it said."""
    with os.fdopen(started[1]) as reading:
        said = reading.read()
    return os.waitstatus_to_exitcode(os.waitpid(started[0], 0)[1]), said


COMMANDS: dict[str, Callable[[Path, Path], list[str]]] = {
    "preprocess": lambda out, _: ["preprocess", "canny", *PICTURES, "--output", str(out)],
    "generate": lambda out, _: ["generate", "--base", str(BASE), "--unit", UNIT, *SMALL, "--output", str(out)],
    "train": lambda out, data: [
        *("train", "--base", str(BASE), "--data", str(data), "--hint", "canny", "--steps", "1", "--batch", "1"),
        *("--resolution", "64", "--out", str(out / "control.safetensors")),
    ],
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("room", [0, 300])
def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path: Path, command: str, room: int) -> None:
    write_dataset(tmp_path / "data", 1, seed=1)
    code, said = _end(_start(COMMANDS[command](tmp_path / "out", tmp_path / "data"), room))
    assert code == 2, said
    assert said.startswith("controlstack: ") or said.splitlines()[-1].startswith("controlstack: "), said
    assert "cannot write" in said
    found = [path for path in tmp_path.joinpath("out").rglob("*") if path.is_file()]
    assert not [path for path in found if path.suffix != ".csv"]  # the losses, written while it runs


@pytest.mark.parametrize("command", ["preprocess", "generate"])
def test_two_processes_on_one_folder_lose_no_picture(tmp_path: Path, command: str) -> None:
    out = tmp_path / "out"
    processes = [_start(COMMANDS[command](out, tmp_path)) for _ in range(2)]
    assert [_end(process)[0] for process in processes] == [0, 0]
    found = [path for path in out.rglob("*") if path.is_file()]
    pictures = [path for path in found if path.suffix == ".png"]
    assert pictures and all(read_image(path).size for path in pictures)
    assert not [path for path in found if path.name.startswith(".")]
    if command == "generate":  # neither took the other's name
        assert len([path for path in pictures if "-" not in path.stem]) == 2
