"""The small checkpoint for Forge and reForge: an extension that makes their loaders take it, and what that reads.

Both find out by shapes which of their model classes a checkpoint is; a class of ours is put before them.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import webui_host
import webui_world

FLAGS = ("--always-cpu", "--all-in-fp32", "--attention-pytorch")
SOURCE = Path("backend") / "huggingface" / "runwayml" / "stable-diffusion-v1-5"
BUILT_IN = "sd_forge_controlnet"
WIDTHS = (1, 2, 4, 4)  # of the autoencoder's levels
AUTOENCODER = {
    "block_out_channels": [webui_world.AUTOENCODER_WIDTH * width for width in WIDTHS], "layers_per_block": 1,
}  # fmt: skip
FORGE = """
import huggingface_guess.model_list as known

class Small(known.SD15):
    huggingface_repo = {folder!r}
    unet_config = {{**known.SD15.unet_config, "context_dim": {context}, "model_channels": {width}}}
    unet_extra_config = {{"num_heads": {heads}, "num_head_channels": -1}}

if not any(each.__name__ == "Small" for each in known.models):
    known.models.insert(0, Small)
"""
REFORGE = """
import json
from functools import partial
from pathlib import Path

import ldm_patched.modules.supported_models as known
from ldm_patched.modules import sd, sd1_clip, supported_models_base
from modules_forge import forge_loader

CLIP = Path({folder!r})
SETTINGS = json.loads((CLIP / "config.json").read_text())
AUTOENCODER = {{
    "double_z": True, "z_channels": 4, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": {autoencoder},
    "ch_mult": {widths}, "num_res_blocks": 1, "attn_resolutions": [], "dropout": 0.0,
}}
ENDS = {{"start": SETTINGS["bos_token_id"], "end": SETTINGS["eos_token_id"], "pad": SETTINGS["pad_token_id"]}}


class Text(sd1_clip.SD1CheckpointClipModel):
    def __init__(self, device="cpu", dtype=None, model_options={{}}):
        sd1_clip.SDClipModel.__init__(
            self, device=device, dtype=dtype, textmodel_json_config=str(CLIP / "config.json"), special_tokens=ENDS,
            return_projected_pooled=False, model_options=model_options,
        )


class Small(known.SD15):
    unet_config = {{**known.SD15.unet_config, "context_dim": {context}, "model_channels": {width}}}
    unet_extra_config = {{"num_heads": {heads}, "num_head_channels": -1}}

    def clip_target(self, state_dict={{}}):
        words = partial(sd1_clip.SDTokenizer, tokenizer_path=str(CLIP), embedding_size={context})
        return supported_models_base.ClipTarget(
            partial(sd1_clip.SD1Tokenizer, tokenizer=words), partial(sd1_clip.SD1ClipModel, clip_model=Text)
        )


if not any(each.__name__ == "Small" for each in known.models):
    known.models.insert(0, Small)
    forge_loader.VAE = partial(sd.VAE, config={{"params": {{"ddconfig": AUTOENCODER, "embed_dim": 4}}}})
"""


def prepare(path: Path, base: Path, models: Path, *, built_in: bool) -> None:
    """Make the program take the checkpoint that lies in `models`; built_in: keep its own ControlNet instead of ours."""
    clip = models / "Stable-diffusion" / "clip"
    sizes = {"context": webui_world.CONTEXT, "width": webui_world.WIDTH, "heads": webui_world.HEADS}
    sizes |= {"autoencoder": webui_world.AUTOENCODER_WIDTH, "widths": WIDTHS}
    if webui_host.kind_of(path) == "FORGE":
        code = FORGE.format(folder=str(_describe(path, base / "small", clip)), **sizes)
    else:
        code = REFORGE.format(folder=str(clip), **sizes)
    target = base / "extensions" / "small" / "scripts"
    target.mkdir(parents=True)
    (target / "small.py").write_text(code)
    settings = {"disabled_extensions": [] if built_in else [BUILT_IN]}
    settings |= {"live_previews_enable": False}  # reForge would download a network for them
    (base / "config.json").write_text(json.dumps(settings))


def _describe(path: Path, folder: Path, clip: Path) -> Path:
    """Forge's loader reads a folder of descriptions, as of diffusers."""
    shutil.copytree(path / SOURCE, folder)
    shutil.copy(clip / "config.json", folder / "text_encoder")
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        shutil.copy(clip / name, folder / "tokenizer")
    (folder / "tokenizer" / "special_tokens_map.json").unlink()
    config = json.loads((folder / "vae" / "config.json").read_text())
    (folder / "vae" / "config.json").write_text(json.dumps({**config, **AUTOENCODER}))
    return folder
