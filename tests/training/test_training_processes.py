"""Several processes train as one with the whole batch would, by the variables that every launcher sets."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from controlstack.training import commands
from controlstack.training.settings import Settings
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[2]
LOAD_AND_RUN = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("controlstack", sys.argv.pop(1))
sys.modules["controlstack"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["controlstack"])
from controlstack.training import commands
sys.exit(commands.main(sys.argv[1:]))
"""


HINTS = {  # one family trains the base along, one takes kinds of hints in turns
    "controlnet": "--hint canny",
    "controlnext": "--hint canny",
    "union": "--kind canny=canny --kind depth=column:depth_image --kind tile=color_grid",
}


def _arguments(settings: Settings, out: Path, batch: int, family: str) -> list[str]:
    given = f"train --base {settings.base} --data {settings.data} --out {out} {HINTS[family]} --steps 2 --batch {batch}"
    return [
        *given.split(),
        "--family",
        family,
        "--accumulate",
        "2",
        "--learning-rate",
        "1e-3",
        "--ema",
        "0.5",
        "--samples",
        "2",
        "--sample-steps",
        "1",
    ]


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.mark.skipif(
    sys.platform == "win32" or not torch.distributed.is_available(), reason="needs torch.distributed with gloo"
)
@pytest.mark.parametrize("family", HINTS)
def test_two_processes_equal_one_with_twice_the_batch(settings: Settings, tmp_path: Path, family: str) -> None:
    one, two = tmp_path / "one" / "control.safetensors", tmp_path / "two" / "control.safetensors"
    world = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
    alike = {**os.environ, **world, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", LOAD_AND_RUN, str(ROOT / "__init__.py"), *_arguments(settings, two, 2, family)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    processes = [
        subprocess.Popen(command, env={**alike, "RANK": rank, "LOCAL_RANK": rank}, **pipes) for rank in ("0", "1")
    ]
    assert commands.main(_arguments(settings, one, 4, family)) == 0
    said = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    assert "2 processes x batch 2 x accumulate 2 = 8 examples" in said[0][0]
    assert "step 1 of 2" in said[0][0]
    assert "step 2 of 2" in said[0][0]
    assert said[1][0] == ""  # the second one is silent
    files = {path.name for path in one.parent.rglob("*")}
    assert {path.name for path in two.parent.rglob("*")} == files
    assert files >= {"control.png", "control.csv", "000000.png", "000002.png"}
    written = sorted(one.parent.glob("*.safetensors"))
    assert len(written) == (2 if family == "controlnext" else 1)
    for path in written:
        expected, found = load_file(path), load_file(two.parent / path.name)
        for key, value in expected.items():
            assert torch.allclose(found[key], value, atol=2e-5), key
