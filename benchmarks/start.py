"""What it costs to start: commands, to load a control model, and our folder in ComfyUI and the WebUIs.

    python benchmarks/start.py [--rounds N] [--only PART ...] [--json FILE]
    COMFYUI_PATH=... COMFYUI_PYTHON=... python benchmarks/start.py   # what our folder adds to ComfyUI's start, too
    WEBUI_PATH=... WEBUI_PYTHON=... FORGE_PATH=... FORGE_PYTHON=... python benchmarks/start.py   # to the WebUIs', too

CPU time is what the operating system counts of a process of its own, so other work on the machine changes little; of
several rounds the least counts. Memory is how far the peak of such a process rises while it loads.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from parts.host_starts import comfyui, webuis

PARTS = ("commands", "loading", "comfyui", "webuis")
ROOT = Path(__file__).resolve().parents[1]
TINY = ROOT / "pipelines" / "tiny"
MIB = 1 << 20
COMMAND = "import sys; from controlstack.cli import main; sys.exit(main(sys.argv[1:]))"
IMPORTS = "import torch, diffusers; from diffusers import StableDiffusionPipeline, UNet2DConditionModel"
FLOORS = {  # what no program that computes with these libraries starts without
    "import of torch": "import torch",
    "import of torch's compiler, as diffusers.utils does": "import torch._dynamo",
    "import of diffusers' U-Net": "from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel",
    "import of transformers' text encoder": "from transformers import CLIPTextModel",
    "import of torch and diffusers alone": IMPORTS,
}
COMMANDS: dict[str, list[str]] = {
    "--version": ["--version"],
    "units": ["units"],
    "generate --help": ["generate", "--help"],
    "preprocess --list": ["preprocess", "--list"],
}
LOAD = """
import json, resource, sys, time
import torch
from pathlib import Path
import controlstack.models.registry as registry
def held(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
before, start = held(), time.process_time()
model = registry.load_control_model(Path(sys.argv[1]))
loaded = time.process_time()
print(json.dumps({"seconds": loaded - start, "memory": held() - before}))
"""
# A ControlNet of full size in fp16, whose files hold random numbers.
WRITE = """
import sys
import torch
from controlstack.models.families.controlnet.config import Block, ControlNetConfig
from controlstack.models.families.controlnet.network import ControlNet
from controlstack.models.layers import STANDARD
from safetensors.torch import save_file
widths = (320, 640, 1280)
blocks = [each for width in widths for each in (Block(width, 1), Block(width, 1), Block(width, down=True))]
blocks += [Block(1280), Block(1280)]
config = ControlNetConfig(channels=320, blocks=tuple(blocks), middle_depth=1, context=768, heads=8)
with torch.device("meta"):
    network = ControlNet(config, STANDARD.ops, STANDARD.attention)
state = {name: torch.randn(each.shape).half() * 0.02 for name, each in network.state_dict().items()}
save_file(state, sys.argv[1])
torch.save(state, sys.argv[2])
"""


def run(python: str, program: str, *arguments: str) -> tuple[str, float]:
    """Run a program in a process of its own; what it printed, and its CPU time in seconds."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # what is compiled once is not compiled at each start
    done = subprocess.Popen(
        [python, "-W", "ignore", "-c", program, *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment,
    )  # fmt: skip
    assert done.stdout is not None
    with done.stdout:
        said = done.stdout.read()
    _, status, used = os.wait4(done.pid, 0)
    done.returncode = os.waitstatus_to_exitcode(status)
    if done.returncode:
        raise SystemExit(f"a process of the benchmark ended with exit code {done.returncode}: {program[:60]!r}")
    return said, used.ru_utime + used.ru_stime


def least(rounds: int, *program: str) -> float:
    """Return the least CPU time of some runs, in seconds."""
    return round(min(run(sys.executable, *program)[1] for _ in range(rounds)), 2)


def commands(rounds: int, folder: Path) -> dict[str, float]:
    """Return the CPU time of commands, in seconds."""
    drawing = ["generate", "--base", str(TINY / "base"), "--steps", "1", "--output", str(folder / "drawn")]
    picture, model = TINY / "images" / "scene-1.png", TINY / "controls" / "canny.safetensors"
    drawing += ["--unit", f"image={picture},preprocessor=canny,model={model}"]
    found = {name: least(rounds, COMMAND, *words) for name, words in COMMANDS.items()}
    found |= {name: least(rounds, program) for name, program in FLOORS.items()}
    found["generate, one step of the tiny world"] = least(rounds, COMMAND, *drawing)
    return found


def loading(rounds: int, folder: Path) -> dict[str, dict[str, float]]:
    """Return what loading a ControlNet of SD 1.5 costs, by the kind of its file: CPU seconds, memory over its size."""
    files = {"safetensors": folder / "full.safetensors", "pth": folder / "full.pth"}
    run(sys.executable, WRITE, *map(str, files.values()))
    found: dict[str, dict[str, float]] = {}
    for kind, path in files.items():
        runs = [json.loads(run(sys.executable, LOAD, str(path))[0]) for _ in range(rounds)]
        size = path.stat().st_size
        found[kind] = {
            "MiB": round(size / MIB),
            "seconds": round(min(each["seconds"] for each in runs), 2),
            "memory over size": round(min(each["memory"] for each in runs) / size, 2),
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        parts: dict[str, Callable[[], Any]] = {
            "commands": lambda: commands(args.rounds, folder),
            "loading": lambda: loading(args.rounds, folder),
            "comfyui": lambda: comfyui(args.rounds),
            "webuis": lambda: webuis(args.rounds),
        }
        found = {name: part() for name, part in parts.items() if name in args.only}
    print(json.dumps(found, indent=2))
    if args.json:
        args.json.write_text(json.dumps(found, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
