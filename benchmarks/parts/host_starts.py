"""What our folder adds to the start of the programs that it extends: CPU time, in real ones."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WEBUIS = ("WEBUI", "FORGE")  # each has its folder in NAME_PATH, and its Python in NAME_PYTHON
RIVAL = "sd_forge_controlnet"
BEGAN = "CONTROLSTACK_BENCHMARK_BEGAN"  # the CPU time at which the first extension was loaded
SAID = "CPU seconds of the start:"
# Two extensions that lie before and behind all others. The collector's pauses fall into some starts and not into
# others, whoever made the objects, so there are none.
FIRST = f"""
import gc, os, time
gc.collect()
gc.disable()
os.environ["{BEGAN}"] = str(time.process_time())
"""
LAST = f"""
import os, time
from modules import script_callbacks
def started(*_):
    print("{SAID}", time.process_time() - float(os.environ["{BEGAN}"]), flush=True)
script_callbacks.on_before_ui(lambda: script_callbacks.on_app_started(started))  # behind those of the others
"""
FLAGS = (
    "--skip-prepare-environment", "--skip-torch-cuda-test", "--skip-version-check", "--skip-python-version-check",
    "--skip-load-model-at-start", "--no-download-sd-model", "--do-not-download-clip", "--use-cpu", "all",
    "--always-cpu", "--no-half", "--server-name", "127.0.0.1",
)  # fmt: skip
# As ComfyUI does with a folder of custom nodes: import it, ask for its nodes and for what they say.
COMFYUI = """
import asyncio, importlib.util, os, sys, time
root, sys.argv = sys.argv[1], ["main.py", "--cpu"]
sys.path.insert(0, os.environ["COMFYUI_PATH"])
import comfy.options
comfy.options.enable_args_parsing()
import comfy.controlnet, comfy.model_management, comfy.sd, comfy_api.latest, execution, folder_paths, nodes, server
async def load():
    server.PromptServer(asyncio.get_running_loop())
    start = time.process_time()
    spec = importlib.util.spec_from_file_location("ours", root + "/__init__.py", submodule_search_locations=[root])
    module = importlib.util.module_from_spec(spec)
    sys.modules["ours"] = module
    spec.loader.exec_module(module)
    extension = await module.comfy_entrypoint()
    await extension.on_load()
    for node in await extension.get_node_list():
        node.GET_SCHEMA()
    return time.process_time() - start
print(asyncio.run(load()))
"""


def comfyui(rounds: int) -> float | None:
    """Return what our folder adds to ComfyUI's start, CPU seconds; None without one."""
    if "COMFYUI_PATH" not in os.environ:
        return None
    command = [os.environ.get("COMFYUI_PYTHON", sys.executable), "-W", "ignore", "-c", COMFYUI, str(ROOT)]
    runs = [
        subprocess.run(command, env=_environment(), capture_output=True, text=True, check=True) for _ in range(rounds)
    ]
    return round(min(float(run.stdout.splitlines()[-1]) for run in runs), 2)


def webuis(rounds: int) -> dict[str, dict[str, float]]:
    """Return CPU seconds by program, with our folder and without it, in turns; the least of each.

    They are counted from the first extension to the built page and its routes. No checkpoint is loaded.
    """
    found: dict[str, dict[str, float]] = {}
    for name in WEBUIS:
        if f"{name}_PATH" not in os.environ:
            continue
        with tempfile.TemporaryDirectory() as folder:
            bases = {kind: _base(Path(folder) / kind) for kind in ("without", "with")}
            (bases["with"] / "extensions" / "ControlStack").symlink_to(ROOT)
            runs = [{kind: _start(name, base) for kind, base in bases.items()} for _ in range(rounds)]
        least = {kind: round(min(run[kind] for run in runs), 2) for kind in bases}
        found[name] = {**least, "added": round(least["with"] - least["without"], 2)}
    return found


def _base(folder: Path) -> Path:
    """Make a folder of data with the two extensions that count; ours would be off beside Forge's own ControlNet."""
    for name, program in (("0", FIRST), ("zz", LAST)):
        scripts = folder / "extensions" / name / "scripts"
        scripts.mkdir(parents=True)
        (scripts / f"count_{name}.py").write_text(program)
    (folder / "config.json").write_text(json.dumps({"disabled_extensions": [RIVAL]}))
    return folder


def _start(name: str, base: Path) -> float:
    """Start a WebUI whose folder of data is `base`, and return what its extensions counted."""
    path = Path(os.environ[f"{name}_PATH"])
    python = os.environ.get(f"{name}_PYTHON", str(path / "venv" / "bin" / "python"))
    command = [python, "-u", "-W", "ignore", "launch.py", *FLAGS, "--port", str(_free_port()), "--data-dir", str(base)]
    with _running(command, path) as process:
        assert process.stdout is not None
        said: list[str] = []
        for line in process.stdout:
            said.append(line)
            if SAID in line:
                return float(line.rpartition(SAID)[2])
    raise SystemExit(f"{name} did not start; it said last: {''.join(said[-5:])}")


@contextmanager
def _running(command: list[str], folder: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        command, cwd=folder, env=_environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    with process:
        try:
            yield process
        finally:
            process.terminate()


def _environment() -> Mapping[str, str]:
    told = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "GRADIO_ANALYTICS_ENABLED": "False"}
    told["IGNORE_CMD_ARGS_ERRORS"] = "1"  # not all of them know all of FLAGS
    left_out = ("PYTHONDONTWRITEBYTECODE", "PYTHONPATH")  # what is compiled once is not compiled at each start
    return {**{name: value for name, value in os.environ.items() if name not in left_out}, **told}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
