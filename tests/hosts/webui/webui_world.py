"""A small SD 1.x checkpoint, with the description that AUTOMATIC1111's WebUI reads beside it.

Run by the WebUI's own Python: `python webui_world.py WEBUI FOLDER [WIDTH]` builds the networks from the WebUI's own
classes, a tenth as wide as the real ones unless another width is given, with random parameters that are not zero.
"""

# pyright: reportMissingImports=false

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NAME, OTHER = "small", "other"  # two checkpoints that differ in their weights
WIDTH, HEADS, CONTEXT = 32, 4, 64
V2, V2_HEAD = "v2", 16  # a checkpoint whose U-Net is that of SD 2.x and predicts velocities, with SD 1.x's text encoder
XL = "xl"  # an SDXL checkpoint with one text encoder
XL_WIDTH, XL_LEVELS, XL_DEPTHS, XL_HEAD = 32, (1, 2, 4), (0, 1, 2), 16
XL_PAIR = "xl-pair"  # the same base with SDXL's two text encoders, as Forge wants them
XL_POOLED = 1280  # of the second encoder's answer: 2816 without what six numbers are made into
XL_WORDS = 49408  # that encoder's; reForge writes its first and last token as the numbers 49406 and 49407
XL_OUTDIMS = (704, 352, 352)  # of three pairs of numbers, so that the vector condition has SDXL's 2816 values
AUTOENCODER_WIDTH = 32
START, END = "<|startoftext|>", "<|endoftext|>"


def main(webui: Path, folder: Path, width: int = WIDTH) -> None:
    """Write the checkpoints with a `.yaml` beside each, and the text encoder's description into `folder`."""
    sys.path.insert(0, str(webui / "repositories" / "stable-diffusion-stability-ai"))
    import yaml

    folder.mkdir(parents=True, exist_ok=True)
    config = yaml.safe_load((webui / "configs" / "v1-inference.yaml").read_text())
    parameters = config["model"]["params"]
    parameters.pop("scheduler_config")
    parameters["unet_config"]["params"].update(model_channels=width, num_heads=HEADS, context_dim=CONTEXT)
    parameters["first_stage_config"]["params"]["ddconfig"].update(ch=AUTOENCODER_WIDTH, num_res_blocks=1)
    parameters["cond_stage_config"]["params"] = {"version": str(folder / "clip")}
    text = _text_config(folder / "clip")
    for seed, name in enumerate((NAME, OTHER), start=1):
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(config))
        _write_weights(parameters, text, folder / f"{name}.safetensors", seed)

    if width == WIDTH:
        _write_v2(webui, folder, text, parameters["cond_stage_config"])
        _write_xl(webui, folder, text)


def _write_v2(webui: Path, folder: Path, text: Any, encoder: dict[str, Any]) -> None:
    import yaml

    source = webui / "repositories" / "stable-diffusion-stability-ai" / "configs" / "stable-diffusion"
    config = yaml.safe_load((source / "v2-inference-v.yaml").read_text())
    parameters = config["model"]["params"]
    network = parameters["unet_config"]["params"]
    network.update(model_channels=WIDTH, num_head_channels=V2_HEAD, context_dim=CONTEXT, use_fp16=False)
    parameters["first_stage_config"]["params"]["ddconfig"].update(ch=AUTOENCODER_WIDTH, num_res_blocks=1)
    parameters["cond_stage_config"] = encoder
    (folder / f"{V2}.yaml").write_text(yaml.safe_dump(config))
    _write_weights(parameters, text, folder / f"{V2}.safetensors", seed=4)


def _write_xl(webui: Path, folder: Path, text: Any) -> None:
    sys.path.insert(0, str(webui / "repositories" / "generative-models"))
    import yaml

    source = webui / "repositories" / "generative-models" / "configs" / "inference" / "sd_xl_base.yaml"
    config = yaml.safe_load(source.read_text())
    parameters = config["model"]["params"]
    network = parameters["network_config"]["params"]
    network.update(model_channels=XL_WIDTH, channel_mult=list(XL_LEVELS), transformer_depth=[1, *XL_DEPTHS[1:]])
    network.update(num_head_channels=XL_HEAD, context_dim=CONTEXT, spatial_transformer_attn_type="softmax")
    first = parameters["first_stage_config"]["params"]["ddconfig"]
    first.update(ch=AUTOENCODER_WIDTH, num_res_blocks=1, attn_type="vanilla")
    embedders = parameters["conditioner_config"]["params"]["emb_models"]
    del embedders[1]
    embedders[0]["params"] = {"version": str(folder / "clip"), "layer": "last"}
    for embedder, size in zip(embedders[1:], XL_OUTDIMS, strict=True):
        embedder["params"]["outdim"] = size
    (folder / f"{XL}.yaml").write_text(yaml.safe_dump(config))
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    one = {"conditioner.embedders.0.transformer.": CLIPTextModel(text)}
    _write_xl_weights(parameters, one, folder / f"{XL}.safetensors")
    half = _text_config(folder / "clip-half", CONTEXT // 2)
    large = _text_config(folder / "clip-pooled", CONTEXT // 2, XL_POOLED, words=XL_WORDS)
    whole = yaml.safe_load(source.read_text())  # reForge reads this, and takes sizes from the weights
    whole["model"]["params"]["conditioner_config"]["params"]["emb_models"][0]["params"]["layer_idx"] = 1
    (folder / f"{XL_PAIR}.yaml").write_text(yaml.safe_dump(whole))
    pair = {
        "conditioner.embedders.0.transformer.": CLIPTextModel(half),
        "conditioner.embedders.1.transformer.": CLIPTextModelWithProjection(large),
    }
    _write_xl_weights(parameters, pair, folder / f"{XL_PAIR}.safetensors")


def _write_xl_weights(parameters: dict[str, Any], encoders: dict[str, Any], path: Path) -> None:
    from ldm.models.autoencoder import AutoencoderKL
    from sgm.modules.diffusionmodules.openaimodel import UNetModel

    networks = {
        "model.diffusion_model.": UNetModel(**parameters["network_config"]["params"]),
        "first_stage_model.": AutoencoderKL(**parameters["first_stage_config"]["params"]),
        **encoders,
    }
    _fill(networks, path, seed=3)


def _write_weights(parameters: dict[str, Any], text: Any, path: Path, seed: int) -> None:
    from ldm.models.autoencoder import AutoencoderKL
    from ldm.modules.diffusionmodules.openaimodel import UNetModel
    from transformers import CLIPTextModel

    networks = {
        "model.diffusion_model.": UNetModel(**parameters["unet_config"]["params"]),
        "first_stage_model.": AutoencoderKL(**parameters["first_stage_config"]["params"]),
        "cond_stage_model.transformer.": CLIPTextModel(text),
    }
    _fill(networks, path, seed)


def _fill(networks: dict[str, Any], path: Path, seed: int) -> None:
    """Random parameters that keep the variance, under the names of a checkpoint."""
    import torch
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(seed)
    state = {}
    for prefix, network in networks.items():
        for name, value in network.state_dict().items():
            if value.is_floating_point():
                noise = torch.randn(value.shape, generator=generator)
                scale = 0.05 if value.ndim == 1 else 1 / math.sqrt(value[0].numel())
                mean = 1.0 if value.ndim == 1 and name.endswith("weight") else 0.0
                state[prefix + name] = (mean + scale * noise).contiguous()
    save_file(state, path)


def _text_config(folder: Path, width: int = CONTEXT, projection: int = CONTEXT, words: int | None = None) -> Any:
    """A CLIP of two layers that reads single bytes: its vocabulary needs no file from anywhere."""
    from transformers import CLIPTextConfig

    folder.mkdir(exist_ok=True)
    letters = list(_byte_letters())
    known = [*letters, *(letter + "</w>" for letter in letters), START, END]
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77}
    settings |= {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END}
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(known)}), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    last = (words or len(known)) - 1
    config = CLIPTextConfig(
        vocab_size=last + 1,
        hidden_size=width,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        projection_dim=projection,
        max_position_embeddings=77,
        bos_token_id=last - 1,
        eos_token_id=last,
        pad_token_id=last,
    )
    config.save_pretrained(folder)
    return config


def _byte_letters() -> Iterator[str]:
    """The letter that stands for each byte in CLIP's vocabulary: itself if it can be printed, else one beyond 255."""
    printed = {*range(33, 127), *range(161, 173), *range(174, 256)}
    yield from map(chr, sorted(printed))
    yield from (chr(256 + i) for i in range(256 - len(printed)))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *map(int, sys.argv[3:]))
