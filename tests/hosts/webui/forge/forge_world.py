"""The small checkpoint for Forge's family: an extension that makes their loaders take it, and what that reads.

All find out by shapes which of their model classes a checkpoint is; a class of ours is put before them.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import webui_host
import webui_world

FLAGS = ("--always-cpu", "--all-in-fp32", "--attention-pytorch")
SOURCE = Path("backend") / "huggingface"
SD1, SDXL = Path("runwayml") / "stable-diffusion-v1-5", Path("stabilityai") / "stable-diffusion-xl-base-1.0"
BUILT_IN = "sd_forge_controlnet"
SIZE = 64  # of pictures, on the page
WIDTHS = (1, 2, 4, 4)  # of the autoencoder's levels
AUTOENCODER = {
    "block_out_channels": [webui_world.AUTOENCODER_WIDTH * width for width in WIDTHS], "layers_per_block": 1,
}  # fmt: skip
FORGE = """
import huggingface_guess.model_list as known
from huggingface_guess import utils


class Small(known.SD15):
    huggingface_repo = {folder!r}
    unet_config = {{**known.SD15.unet_config, "context_dim": {context}, "model_channels": {width}}}
    unet_extra_config = {{"num_heads": {heads}, "num_head_channels": -1}}


class SmallXL(known.SDXL):
    huggingface_repo = {folder_xl!r}
    unet_config = {{
        **known.SDXL.unet_config, "context_dim": {context}, "model_channels": {width_xl}, "transformer_depth": {depths},
    }}
    unet_extra_config = {{"num_heads": -1, "num_head_channels": {head_xl}}}

    def process_clip_state_dict(self, state_dict):
        names = {{"conditioner.embedders.0.": "clip_l.", "conditioner.embedders.1.": "clip_g."}}
        return utils.state_dict_prefix_replace(state_dict, names, filter_keys=True)


if not any(each.__name__ == "Small" for each in known.models):
    known.models[:0] = [Small, SmallXL]
"""
OLDER = """
import json
from functools import partial
from pathlib import Path

import torch

import ldm_patched.modules.supported_models as known
from ldm_patched.modules import sd, sd1_clip, sdxl_clip, supported_models_base, utils
from modules_forge import forge_loader

TEXTS = Path({texts!r})
AUTOENCODER = {{
    "double_z": True, "z_channels": 4, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": {autoencoder},
    "ch_mult": {widths}, "num_res_blocks": 1, "attn_resolutions": [], "dropout": 0.0,
}}


def encoder(name, **given):
    path = TEXTS / name / "config.json"
    settings = json.loads(path.read_text())
    ends = {{"start": settings["bos_token_id"], "end": settings["eos_token_id"], "pad": settings["pad_token_id"]}}
    more = {{"return_projected_pooled": False}} if "model_options" in given else {{}}
    return sd1_clip.SDClipModel(**given, **more, textmodel_json_config=str(path), special_tokens=ends)


def words(name, width):
    return partial(sd1_clip.SDTokenizer, tokenizer_path=str(TEXTS / name), embedding_size=width)


class Small(known.SD15):
    unet_config = {{**known.SD15.unet_config, "context_dim": {context}, "model_channels": {width}}}
    unet_extra_config = {{"num_heads": {heads}, "num_head_channels": -1}}

    def clip_target(self, state_dict={{}}):
        return supported_models_base.ClipTarget(
            partial(sd1_clip.SD1Tokenizer, tokenizer=words("clip", {context})),
            partial(sd1_clip.SD1ClipModel, clip_model=partial(encoder, "clip")),
        )


class Pair(sdxl_clip.SDXLClipModel):
    def __init__(self, **given):
        torch.nn.Module.__init__(self)
        self.clip_l, self.clip_g = (encoder(name, **given) for name in ("clip-half", "clip-pooled"))
        self.clip_g.text_projection = torch.nn.Parameter(torch.empty({context} // 2, {pooled}))
        self.dtypes = set()


class Words(sdxl_clip.SDXLTokenizer):
    def __init__(self, **given):
        self.clip_l, self.clip_g = (words(name, {context} // 2)(**given) for name in ("clip-half", "clip-pooled"))


class SmallXL(known.SDXL):
    unet_config = {{
        **known.SDXL.unet_config, "context_dim": {context}, "model_channels": {width_xl}, "transformer_depth": {depths},
    }}
    unet_extra_config = {{"num_heads": -1, "num_head_channels": {head_xl}}}

    def process_clip_state_dict(self, state_dict):
        names = {{"conditioner.embedders.0.": "clip_l.", "conditioner.embedders.1.": "clip_g."}}
        found = utils.state_dict_prefix_replace(state_dict, names, filter_keys=True)
        found["clip_g.text_projection"] = found.pop("clip_g.transformer.text_projection.weight").T.contiguous()
        return found | {{"cond_stage_model." + name: value for name, value in found.items()}}  # as Classic has them

    def clip_target(self, state_dict={{}}):
        return supported_models_base.ClipTarget(Words, Pair)


if not any(each.__name__ == "Small" for each in known.models):
    known.models[:0] = [Small, SmallXL]
    forge_loader.VAE = partial(sd.VAE, config={{"params": {{"ddconfig": AUTOENCODER, "embed_dim": 4}}}})
"""


def started(
    path: Path, base: Path, models: Path, *, built_in: bool, flags: Sequence[str] = FLAGS
) -> AbstractContextManager[webui_host.Host]:
    """The program, with its own ControlNet or with ours."""
    prepare(path, base, models, built_in=built_in)
    return webui_host.started(path, base, models, () if built_in else (webui_host.ROOT,), flags=flags)


def prepare(path: Path, base: Path, models: Path, *, built_in: bool) -> None:
    """Make the program take the checkpoints that lie in `models`; built_in: keep its own ControlNet instead of ours."""
    texts = models / "Stable-diffusion"
    sizes = {"context": webui_world.CONTEXT, "width": webui_world.WIDTH, "heads": webui_world.HEADS}
    sizes |= {"width_xl": webui_world.XL_WIDTH, "head_xl": webui_world.XL_HEAD}
    depths = [depth for depth in webui_world.XL_DEPTHS for _ in range(2)]
    if (path / SOURCE).is_dir():
        one, two = base / "small", base / "small-xl"
        _describe(path / SOURCE / SD1, one, {"": texts / "clip"})
        _describe(path / SOURCE / SDXL, two, {"": texts / "clip-half", "_2": texts / "clip-pooled"})
        code = FORGE.format(folder=str(one), folder_xl=str(two), depths=depths, **sizes)
    else:
        sizes |= {"autoencoder": webui_world.AUTOENCODER_WIDTH, "pooled": webui_world.XL_POOLED}
        code = OLDER.format(texts=str(texts), widths=WIDTHS, depths=depths, **sizes)
    (base / "models").symlink_to(models, target_is_directory=True)  # Classic has no --models-dir
    target = base / "extensions" / "small" / "scripts"
    target.mkdir(parents=True)
    (target / "small.py").write_text(code)
    settings = {"disabled_extensions": [] if built_in else [BUILT_IN]}
    # reForge would download a network for previews, and look for a text encoder apart from the checkpoint's.
    settings |= {"live_previews_enable": False, "sd_text_encoder": "None"}
    # Forge's page takes its sizes from here some time after it was opened, and would undo what a test has typed.
    settings |= {f"sd_{tab}_{side}": SIZE for tab in ("t2i", "i2i") for side in ("width", "height")}
    (base / "config.json").write_text(json.dumps(settings))


def _describe(source: Path, folder: Path, texts: Mapping[str, Path]) -> None:
    """Forge's loader reads a folder of descriptions, as of diffusers. texts: the text encoders by their endings."""
    shutil.copytree(source, folder)
    for ending, text in texts.items():
        shutil.copy(text / "config.json", folder / f"text_encoder{ending}")
        words = folder / f"tokenizer{ending}"
        for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
            shutil.copy(text / name, words)
        (words / "special_tokens_map.json").unlink()
    config = json.loads((folder / "vae" / "config.json").read_text())
    (folder / "vae" / "config.json").write_text(json.dumps({**config, **AUTOENCODER}))
