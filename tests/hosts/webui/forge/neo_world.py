"""A small Anima in Forge Neo: the files that it draws with, and its start."""

from __future__ import annotations

import json
import os
import subprocess
from contextlib import AbstractContextManager
from pathlib import Path

import anima_world
import control_files
import forge_world
import webui_host
from packs import neo_anima_pack as small
from safetensors.torch import save_file

FLAGS = ("--cpu", "--force-fp32", "--use-pytorch-cross-attention")
PACK = "neo_anima_pack.py"
LAST = small.BLOCKS - 1


def write_models(path: Path, models: Path) -> None:
    """Write the checkpoint, ControlLLLite files for it, and none that fits."""
    checkpoints, controls = models / "Stable-diffusion", models / "ControlNet"
    for folder in (checkpoints, controls):
        folder.mkdir(parents=True)
    command = [webui_host.python_of(path), "-W", "ignore", str(webui_host.HERE / "packs" / PACK), str(path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    subprocess.run([*command, str(checkpoints)], check=True, env=environment, capture_output=True)
    every = {"width": small.WIDTH, "blocks": range(small.BLOCKS)}
    for seed, name in enumerate(("all", "other")):
        save_file(anima_world.state(seed, **every), controls / f"{name}.safetensors")
    last = anima_world.state(2, width=small.WIDTH, blocks=[LAST], projections=["mlp_layer1"])
    save_file(last, controls / "last.safetensors")
    hole = {"lllite.version": "2", "lllite.inpaint_masked_input": "true"}
    save_file(anima_world.state(3, reads=4, **every), controls / "hole.safetensors", hole)
    save_file(anima_world.state(4, width=32, blocks=[0]), controls / "narrow.safetensors")
    control_files.write_controlnet(controls / "canny.safetensors", 5, control_files.HEADS, 32)


def started(path: Path, base: Path, models: Path, *, built_in: bool) -> AbstractContextManager[webui_host.Host]:
    """Neo with the small Anima, and its own ControlNet or ours."""
    small.describe(path, base / small.FOLDER)
    (base / "models").symlink_to(models, target_is_directory=True)  # it has no --models-dir
    settings = {
        "disabled_extensions": [] if built_in else [forge_world.BUILT_IN],
        "live_previews_enable": False,
        "sd_model_checkpoint": f"{small.NAME}.safetensors",
    }
    (base / "config.json").write_text(json.dumps(settings))
    extensions = () if built_in else (webui_host.ROOT,)
    return webui_host.started(path, base, models, extensions, flags=FLAGS, packs=(PACK,))
