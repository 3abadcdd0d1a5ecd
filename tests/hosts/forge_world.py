"""The small checkpoint for Forge: a folder of descriptions for its loader, and an extension that shows it to it.

Forge finds out by shapes which of its model classes a checkpoint is; a class of ours is put before them.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import webui_world

FLAGS = ("--always-cpu", "--all-in-fp32", "--attention-pytorch")
SOURCE = Path("backend") / "huggingface" / "runwayml" / "stable-diffusion-v1-5"
BUILT_IN = "sd_forge_controlnet"
AUTOENCODER = {"block_out_channels": [32, 64, 128, 128], "layers_per_block": 1}
EXTENSION = """
import huggingface_guess.model_list as known

class Small(known.SD15):
    huggingface_repo = {folder!r}
    unet_config = {{**known.SD15.unet_config, "context_dim": {context}, "model_channels": {width}}}
    unet_extra_config = {{"num_heads": {heads}, "num_head_channels": -1}}

if not any(each.__name__ == "Small" for each in known.models):
    known.models.insert(0, Small)
"""


def prepare(path: Path, base: Path, models: Path, *, built_in: bool) -> None:
    """Make Forge take the checkpoint that lies in `models`; built_in: keep its own ControlNet instead of ours."""
    folder = base / "small"
    shutil.copytree(path / SOURCE, folder)
    clip = models / "Stable-diffusion" / "clip"
    shutil.copy(clip / "config.json", folder / "text_encoder")
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        shutil.copy(clip / name, folder / "tokenizer")
    (folder / "tokenizer" / "special_tokens_map.json").unlink()
    config = json.loads((folder / "vae" / "config.json").read_text())
    (folder / "vae" / "config.json").write_text(json.dumps({**config, **AUTOENCODER}))
    target = base / "extensions" / "small" / "scripts"
    target.mkdir(parents=True)
    sizes = {"context": webui_world.CONTEXT, "width": webui_world.WIDTH, "heads": webui_world.HEADS}
    (target / "small.py").write_text(EXTENSION.format(folder=str(folder), **sizes))
    off = [] if built_in else [BUILT_IN]
    (base / "config.json").write_text(json.dumps({"disabled_extensions": off}))
