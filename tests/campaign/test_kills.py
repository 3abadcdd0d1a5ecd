"""`kill -9` before any file operation of a command: targets are whole or absent, and the next run cleans up.

The command runs in a process of its own, which kills itself before its n-th operation that names, moves or removes a
file in the working folder. So the place is exact, and no clock is asked.
"""

from __future__ import annotations

import os
import random
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from controlstack.cli import main
from controlstack.pipelines.tiny_world import BASE, IMAGES
from controlstack.preprocessors.images import read_image
from controlstack.training.tiny.scenes import write_dataset
from safetensors.torch import load_file

pytestmark = [pytest.mark.campaign, pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")]

OPERATIONS = {"open", "os.rename", "os.remove", "os.mkdir", "os.link"}
NEVER = 1 << 30


def _run(argv: list[str], folder: Path, operation: int) -> int | None:
    """Run a command in a process that kills itself before an operation; return its exit code, None if killed."""
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        return None if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
    code = 70
    try:
        count = 0

        def audit(event: str, args: tuple[Any, ...]) -> None:
            nonlocal count
            if event in OPERATIONS and isinstance(args[0], str | os.PathLike) and str(args[0]).startswith(str(folder)):
                count += 1
                if count == operation:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(audit)
        with Path(os.devnull).open("w") as nowhere:
            sys.stdout = sys.stderr = nowhere
            code = main(argv)
    finally:
        os._exit(code)


def _names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def _survive(
    command: Callable[[Path], list[str]], again: Callable[[Path], list[str]], folder: Path, times: int
) -> None:
    """Kill a command at each of its first operations, then at random ones, and let it finish afterwards.

    again: what is said beside the command then, by what lies in its folder.
    """
    assert _run(command(folder / "whole"), folder / "whole", NEVER) == 0
    expected = _names(folder / "whole")
    killed = 0
    for trial in range(times):
        place = folder / str(trial)
        operation = trial + 1 if trial < times // 2 else random.Random(trial).randint(1, 12)
        killed += _run(command(place), place, operation) is None
        for path in place.rglob("[!.]*.*"):
            READERS.get(path.suffix, Path.exists)(path)
        assert _run([*command(place), *again(place)], place, NEVER) == 0, f"killed before operation {operation}"
        assert _names(place) == expected, f"killed before operation {operation}"
    assert killed > times // 3


READERS: dict[str, Callable[[Path], Any]] = {".png": read_image, ".safetensors": load_file}


@pytest.mark.tries(4, 100)
def test_preprocess(tmp_path: Path, times: int) -> None:
    pictures = [str(path) for path in sorted(IMAGES.glob("scene-*.png"))]
    command = ["preprocess", "canny", *pictures, "--output"]
    _survive(lambda place: [*command, str(place)], lambda _: ["--resume"], tmp_path, times)


@pytest.mark.tries(2, 30)
@pytest.mark.parametrize("family", ["controlnet", "controlnext"])  # the second writes two files
def test_train(tmp_path: Path, times: int, family: str) -> None:
    write_dataset(tmp_path / "data", 2, seed=1)
    given = ["train", "--base", str(BASE), "--data", str(tmp_path / "data"), "--hint", "canny", "--steps", "2"]
    given += ["--family", family]
    given += ["--batch", "1", "--save-every", "1", "--resolution", "64"]

    def resumed(place: Path) -> list[str]:
        return ["--resume"] if (place / "control.state").exists() else []

    _survive(lambda place: [*given, "--out", str(place / "control.safetensors")], resumed, tmp_path, times)
