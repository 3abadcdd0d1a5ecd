"""A checkpoint in one file -> a diffusers pipeline, without the network.

diffusers converts the weights, but asks its hub for the configuration of every part. All of it follows from the shapes
in the file, apart from a few numbers that are the same for all models of a kind and stand here with their source.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import count, takewhile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import torch

from ..core.errors import HostError
from ..core.network.base import LATENT
from ..models.families.controlnet.config import ControlNetConfig, ControlNetSettings
from ..models.files.loading import Header, read_header, read_tensors
from ..models.files.sources import read_settings
from ..models.guard import one_line
from ..models.names import below
from .folders import check_channels
from .tokenizers import END, ZERO, make_tokenizer

Shapes = Mapping[str, tuple[int, ...]]
Config = dict[str, Any]
Named = TypeVar("Named")
SINGLE_FILES = (".safetensors", ".ckpt")
WRAPPER = "state_dict."
UNET, VAE = "model.diffusion_model.", "first_stage_model."
CLIP, OPEN_CLIP = "cond_stage_model.transformer.text_model.", "cond_stage_model.model."
XL_CLIP, XL_OPEN_CLIP = "conditioner.embedders.0.transformer.text_model.", "conditioner.embedders.1.model."
REFINER = "conditioner.embedders.0.model."
HEAD = 64  # channels of an attention head in every CLIP text encoder (Radford et al. 2021, table 19)
SIZES = 6  # numbers about the picture's size that SDXL reads (Podell et al. 2023, section 2.2)
LATENT_CHANNELS = 4
SCHEDULE = {  # of the noise: v1-inference.yaml of CompVis/stable-diffusion, and the settings that diffusers gives to it
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
    "clip_sample": False,
    "set_alpha_to_one": False,
}
# SD 2.x comes in both kinds with the same shapes. Where this layer's bias spreads so much, it predicts v: found by
# ComfyUI (supported_models.py, SD20), and the safest that a file without metadata allows.
TELLTALE, SPREAD_OF_V = f"{UNET}output_blocks.11.1.transformer_blocks.0.norm1.bias", 0.09
V_KEY, ZERO_SNR_KEY = "v_pred", "ztsnr"  # empty tensors by which SDXL models say that they are trained so


@dataclass(frozen=True, slots=True)
class Kind:
    """What is the same for all checkpoints of one Stable Diffusion."""

    pipeline: str
    encoders: tuple[str, ...]  # prefixes of the text encoders, in the order of the pipeline
    side: int  # of the latents that it was trained on
    scaling: float  # of the latents
    scheduler: tuple[tuple[str, str], ...] = ()  # what its scheduler says beyond the others' configuration


SD1 = Kind("StableDiffusionPipeline", (CLIP,), 64, 0.18215)
SD2 = Kind("StableDiffusionPipeline", (OPEN_CLIP,), 96, 0.18215)
SDXL = Kind("StableDiffusionXLPipeline", (XL_CLIP, XL_OPEN_CLIP), 128, 0.13025, (("timestep_spacing", "leading"),))


def load_single_file(path: Path, dtype: torch.dtype, prediction: str | None = None) -> Any:
    """Return the pipeline of an SD 1.x, SD 2.x or SDXL checkpoint, on the CPU.

    prediction: 'epsilon' or 'v_prediction'; without it the file's metadata, its keys or its weights tell.
    Raises HostError for what is no such checkpoint, or lacks a part.
    """
    import diffusers

    header = _header(path)
    kind = kind_of(path.name, header.shapes)
    scheduler = {**SCHEDULE, **dict(kind.scheduler), **_prediction(path, header, prediction)}
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_configs(folder, kind, header.shapes, scheduler, read_settings(ControlNetSettings, header))
        names = ["tokenizer", "tokenizer_2"][: len(kind.encoders)]
        tokenizers = {
            name: make_tokenizer(folder / name, END if prefix in (CLIP, XL_CLIP) else ZERO)
            for name, prefix in zip(names, kind.encoders, strict=True)
        }
        try:
            return getattr(diffusers, kind.pipeline).from_single_file(
                str(path), config=str(folder), torch_dtype=dtype, local_files_only=True, **tokenizers
            )
        except NotImplementedError as error:  # a weight that is still on the meta device cannot be cast
            raise HostError(f"'{path.name}' lacks some of its networks' weights: get the full checkpoint") from error
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise HostError(f"'{path.name}' cannot be read as a checkpoint: {one_line(error)}") from error


def read_kind(path: Path) -> Kind:
    """Return which Stable Diffusion a file holds, from its header; errors as of `load_single_file`."""
    return kind_of(path.name, _header(path).shapes)


def _header(path: Path) -> Header:
    check_checkpoint(path)
    header = read_header(path)
    return replace(header, shapes=_unwrapped(header.shapes))


def check_checkpoint(path: Path) -> None:
    """Raise HostError for a path that leads to no file, or to one of another kind."""
    if not path.is_file():
        raise HostError(f"there is no checkpoint '{path}': give a diffusers folder or a .safetensors file")
    if path.suffix.lower() not in SINGLE_FILES:
        raise HostError(
            f"'{path}' is no checkpoint by its name, expected {' or '.join(SINGLE_FILES)}: give such a file, or a "
            "diffusers folder"
        )


def kind_of(name: str, shapes: Shapes) -> Kind:
    """Return which Stable Diffusion a file with these weights holds. HostError for anything else."""
    if f"{UNET}input_blocks.0.0.weight" not in shapes:
        raise HostError(f"'{name}' holds no base model: give a Stable Diffusion checkpoint")
    if any(key.startswith(REFINER) for key in shapes):
        raise HostError(f"'{name}' is SDXL's refiner, which no control model was trained for: give the SDXL base model")
    check_channels(name, shapes[f"{UNET}input_blocks.0.0.weight"][1])
    found = [kind for kind in (SD1, SD2, SDXL) if all(_has(shapes, prefix) for prefix in kind.encoders)]
    if not found:
        raise HostError(f"'{name}' holds no text encoder: give the full checkpoint, or a diffusers folder")
    if not _has(shapes, VAE):
        raise HostError(f"'{name}' holds no autoencoder: give the full checkpoint, or a diffusers folder")
    return found[0]


def write_configs(folder: Path, kind: Kind, shapes: Shapes, scheduler: Config, settings: ControlNetSettings) -> None:
    """Write the configuration of every part to where diffusers looks for it.

    settings: what no shape tells of a model that is none of the known ones.
    """
    encoders = [_text_encoder(_below(shapes, prefix), unused=int(kind is SD2)) for prefix in kind.encoders]
    pooled = encoders[-1].get("projection_dim", 0)
    net = ControlNetConfig.from_shapes(_below(shapes, UNET), settings)
    parts: dict[str, tuple[str, str, Config]] = {
        "unet": ("diffusers", "UNet2DConditionModel", _unet(net, kind, pooled)),
        "vae": ("diffusers", "AutoencoderKL", _autoencoder(_below(shapes, VAE), kind)),
        "text_encoder": ("transformers", "CLIPTextModel", encoders[0]),
        "scheduler": ("diffusers", "DDIMScheduler", scheduler),
    }
    if kind is SDXL:
        parts["text_encoder_2"] = ("transformers", "CLIPTextModelWithProjection", encoders[1])
    index: Config = {"_class_name": kind.pipeline, "_diffusers_version": "0.35.0"}
    if kind is not SDXL:
        index["requires_safety_checker"] = False
    index |= {f"tokenizer{suffix}": ["transformers", "CLIPTokenizer"] for suffix in ["", "_2"][: len(encoders)]}
    for name, (library, cls, config) in parts.items():
        index[name] = [library, cls]
        (folder / name).mkdir()
        file = "scheduler_config.json" if name == "scheduler" else "config.json"
        (folder / name / file).write_text(json.dumps({"_class_name": cls, **config}), encoding="utf-8")
    (folder / "model_index.json").write_text(json.dumps(index), encoding="utf-8")


def _unet(net: ControlNetConfig, kind: Kind, pooled: int) -> Config:
    levels: list[list[int]] = [[]]  # depths of the transformers of each level
    widths = [net.channels]
    for block in net.blocks:
        if block.down:
            levels.append([])
            widths.append(block.channels)
        else:
            levels[-1].append(block.depth)
            widths[-1] = block.channels
    attends = [max(depths) > 0 for depths in levels]
    config: Config = {
        "sample_size": kind.side,
        "in_channels": net.latent_channels,
        "out_channels": LATENT_CHANNELS,
        "block_out_channels": widths,
        "layers_per_block": len(levels[0]),
        "cross_attention_dim": net.context,
        "attention_head_dim": [net.heads_of(width) for width in widths],  # diffusers' name for their number
        "norm_num_groups": net.groups,
        "use_linear_projection": net.linear,
        "transformer_layers_per_block": [max(1, *depths) for depths in levels],
        "down_block_types": ["CrossAttnDownBlock2D" if yes else "DownBlock2D" for yes in attends],
        "up_block_types": ["CrossAttnUpBlock2D" if yes else "UpBlock2D" for yes in reversed(attends)],
    }
    if net.label is None:
        return config
    return config | {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": (net.label - pooled) // SIZES,
        "projection_class_embeddings_input_dim": net.label,
    }


def _autoencoder(shapes: Shapes, kind: Kind) -> Config:
    levels = [shapes[key] for key in _numbered(shapes, "encoder.down.{}.block.0.conv2.weight")]
    return {
        "in_channels": 3,
        "out_channels": 3,
        "latent_channels": shapes["decoder.conv_in.weight"][1],
        "block_out_channels": [shape[0] for shape in levels],
        "layers_per_block": len(_numbered(shapes, "encoder.down.0.block.{}.conv2.weight")),
        "down_block_types": ["DownEncoderBlock2D"] * len(levels),
        "up_block_types": ["UpDecoderBlock2D"] * len(levels),
        "scaling_factor": kind.scaling,
        "force_upcast": kind is SDXL,  # its activations overflow fp16
        "sample_size": kind.side * LATENT,
    }


def _text_encoder(shapes: Shapes, unused: int) -> Config:
    """CLIP's (names of transformers) or OpenCLIP's (names of its own), without the `unused` last layers.

    SD 2.x reads the last but one layer, so diffusers leaves the last one out (its convert_open_clip_checkpoint).
    """
    ours = "embeddings.token_embedding.weight" in shapes
    words = shapes["embeddings.token_embedding.weight" if ours else "token_embedding.weight"]
    layer = "encoder.layers.{}.mlp.fc1.weight" if ours else "transformer.resblocks.{}.mlp.c_fc.weight"
    layers = _numbered(shapes, layer)
    projection = shapes.get("text_projection")
    return {
        "model_type": "clip_text_model",
        "vocab_size": words[0],
        "hidden_size": words[1],
        "intermediate_size": shapes[layers[0]][0],
        "num_hidden_layers": len(layers) - unused,
        "num_attention_heads": words[1] // HEAD,
        "max_position_embeddings": shapes["embeddings.position_embedding.weight" if ours else "positional_embedding"][
            0
        ],
        "hidden_act": "quick_gelu" if ours else "gelu",
        "projection_dim": words[1] if projection is None else projection[1],
        "bos_token_id": words[0] - 2,
        "eos_token_id": words[0] - 1,
        "pad_token_id": words[0] - 1 if ours else 0,
    }


def _prediction(path: Path, header: Header, given: str | None) -> Config:
    """Return what the network predicts, and whether its noise schedule ends without signal (Lin et al. 2023).

    In that case the first step has to be the last time of all (their section 3.3).
    """
    ends = ZERO_SNR_KEY in header.shapes
    zero = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"} if ends else {}
    return {"prediction_type": given or _predicted(path, header), **zero}


def _predicted(path: Path, header: Header) -> str:
    said = header.metadata.get("modelspec.prediction_type", "").lower()  # Stability-AI/ModelSpec
    if said:
        return "v_prediction" if said.startswith("v") else "epsilon"
    if V_KEY in header.shapes:
        return "v_prediction"
    if not _has(header.shapes, OPEN_CLIP) or TELLTALE not in header.shapes:
        return "epsilon"
    return "v_prediction" if _tensor(path, TELLTALE).float().std(unbiased=False) > SPREAD_OF_V else "epsilon"


def _tensor(path: Path, name: str) -> torch.Tensor:
    from safetensors import safe_open

    if path.suffix.lower() != ".safetensors":
        return _unwrapped(read_tensors(path))[name]
    with safe_open(path, "pt") as file:
        return file.get_tensor(name)


def _unwrapped(named: Mapping[str, Named]) -> dict[str, Named]:
    """Return what stands below the wrapper that Lightning puts around the weights of a .ckpt, if it is there."""
    return below(named, WRAPPER if _has(named, WRAPPER) else "")


def _has(shapes: Mapping[str, object], prefix: str) -> bool:
    return any(key.startswith(prefix) for key in shapes)


def _below(shapes: Shapes, prefix: str) -> dict[str, tuple[int, ...]]:
    return {key[len(prefix) :]: shape for key, shape in shapes.items() if key.startswith(prefix)}


def _numbered(shapes: Shapes, pattern: str) -> list[str]:
    """Return the names of a pattern for 0, 1, 2 ... as far as there are any."""
    return list(takewhile(shapes.__contains__, (pattern.format(k) for k in count())))
