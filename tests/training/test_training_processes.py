"""Several processes train as one with the whole batch would, by the variables that every launcher sets."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from controlstack.training import commands
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[2]
BLOCKS = 2  # as in the tiny world: some families count them
LOAD_AND_RUN = """
import importlib.util, json, os, sys
from accelerate.state import AcceleratorState
spec = importlib.util.spec_from_file_location("controlstack", sys.argv[1])
sys.modules["controlstack"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["controlstack"])
from controlstack.training import commands
for port, given in json.loads(sys.argv[2]):  # a training ends the group of its processes, and the next makes one
    os.environ["MASTER_PORT"] = str(port)
    AcceleratorState._reset_state(True)
    if code := commands.main(given):
        sys.exit(code)
"""


HINTS = {  # one family trains the base along, one takes kinds of hints in turns
    "controlnet": "--hint canny",
    "controlnext": "--hint canny",
    "union": "--kind canny=canny --kind depth=column:depth_image --kind tile=color_grid",
}


def _arguments(world: Path, out: Path, batch: int, family: str) -> list[str]:
    given = f"train --base {world / 'base'} --data {world / 'data'} --out {out / family / 'control.safetensors'}"
    given += f" {HINTS[family]} --steps 2 --batch {batch} --resolution 64 --family {family} --accumulate 2"
    return [*given.split(), *["--learning-rate", "1e-3", "--ema", "0.5", "--samples", "2", "--sample-steps", "1"]]


def _free_ports(count: int) -> list[int]:
    with ExitStack() as opened:
        found = [opened.enter_context(socket.socket()) for _ in range(count)]
        for each in found:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in found]


@pytest.fixture(scope="module")
def trained_by_two(world: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A folder with what two processes have trained of each family, one after the other, and what each has said."""
    if sys.platform == "win32" or not torch.distributed.is_available():
        pytest.skip("needs torch.distributed with gloo")
    out = tmp_path_factory.mktemp("two")
    given = [*zip(_free_ports(len(HINTS)), (_arguments(world, out, 2, family) for family in HINTS), strict=True)]
    group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    alike = {**os.environ, **group, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", LOAD_AND_RUN, str(ROOT / "__init__.py"), json.dumps(given)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    processes = [
        subprocess.Popen(command, env={**alike, "RANK": rank, "LOCAL_RANK": rank}, **pipes) for rank in ("0", "1")
    ]
    said = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    return out, [words for words, _ in said]


def test_one_of_two_processes_speaks(trained_by_two: tuple[Path, list[str]]) -> None:
    first, second = trained_by_two[1]
    for words in ("2 processes x batch 2 x accumulate 2 = 8 examples", "step 1 of 2", "step 2 of 2"):
        assert first.count(words) == len(HINTS)
    assert second == ""


@pytest.mark.parametrize("family", HINTS)
def test_two_processes_equal_one_with_twice_the_batch(
    world: Path, trained_by_two: tuple[Path, list[str]], tmp_path: Path, family: str
) -> None:
    assert commands.main(_arguments(world, tmp_path, 4, family)) == 0
    one, two = tmp_path / family, trained_by_two[0] / family
    files = {path.name for path in one.rglob("*")}
    assert {path.name for path in two.rglob("*")} == files
    assert files >= {"control.png", "control.csv", "000000.png", "000002.png"}
    written = sorted(one.glob("*.safetensors"))
    assert len(written) == (2 if family == "controlnext" else 1)
    for path in written:
        expected, found = load_file(path), load_file(two / path.name)
        for key, value in expected.items():
            assert torch.allclose(found[key], value, atol=2e-5), key
