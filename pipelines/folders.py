"""A diffusers folder of a base model: what it holds, and its parts, each loaded by itself.

Folders come with one variant of the weights only (fp16), without parts that were never downloaded, or cut off. So each
part is looked for, loaded and checked alone, and what is wrong is said of it. The classes are those of diffusers and
transformers, never code that lies in the folder.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Container, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..core.errors import ControlError, HostError
from ..core.files import read_json
from ..models.guard import one_line, shown

INDEX = "model_index.json"
NEEDED = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
SECOND = ("text_encoder_2", "tokenizer_2")  # of SDXL, which needs both
CHECKER = ("safety_checker", "feature_extractor")  # of SD 1.x and 2.x, which do without both where one lacks
UNUSED = "image_encoder"  # of diffusers' own IP-Adapters
VOCABULARY = ("vocab.json", "tokenizer.json")  # a tokenizer without both is made silently, and knows no word
LIBRARIES = ("diffusers", "transformers")
_ENCODERS, _TOKENIZERS = ("CLIPTextModel", "CLIPTextModelWithProjection"), ("CLIPTokenizer", "CLIPTokenizerFast")
CLASSES = {  # that a part may be of; others belong to other kinds of models, or load code
    "unet": ("UNet2DConditionModel",),
    "vae": ("AutoencoderKL", "AutoencoderTiny", "AsymmetricAutoencoderKL"),
    "text_encoder": _ENCODERS,
    "text_encoder_2": _ENCODERS,
    "tokenizer": _TOKENIZERS,
    "tokenizer_2": _TOKENIZERS,
}
OF_CHECKER = {  # the only classes that there are; folders name the second one by names of its past
    "safety_checker": ("diffusers.pipelines.stable_diffusion.safety_checker", "StableDiffusionSafetyChecker"),
    "feature_extractor": ("transformers", "CLIPImageProcessor"),
}
FILE = re.compile(  # of weights: whole or a shard, of the plain kind or a variant such as fp16
    r"(?:diffusion_pytorch_model|pytorch_model|model)(?:-\d{5}-of-\d{5})?(?:\.(?P<variant>[A-Za-z0-9_]+))??"
    r"(?:-\d{5}-of-\d{5})?\.(?:safetensors|bin)"
)
PREFERRED = ("", "fp16", "bf16", "fp32")  # variants, the plain one first
PLAIN, INPAINTING = 4, 9  # channels that a U-Net reads: latents; latents, mask, and latents of what is kept
OTHERS = {5: "a model of depth", 7: "an upscaler", 8: "a model of edits"}


@dataclass(frozen=True, slots=True)
class Layout:
    """What a folder holds, as its configuration files say it."""

    folder: Path
    parts: Mapping[str, tuple[str, str]]  # name -> (library, class), of the parts that are there
    side: int | None  # of the latents that it was trained on, where it says so

    @property
    def xl(self) -> bool:
        return SECOND[0] in self.parts


def read_layout(folder: Path) -> Layout:
    """Return what a folder holds, without reading weights. HostError for what no pipeline here can use."""
    if not (folder / INDEX).is_file():
        raise HostError(f"'{folder}' has no {INDEX}: expected a diffusers folder: give one, or a checkpoint file")
    index = _read_table(folder / INDEX, "list of parts")
    named = {name: tuple(value) for name, value in index.items() if _is_part(value)}
    there = {name: each for name, each in named.items() if (folder / name).is_dir()}
    wanted = (*NEEDED, *SECOND) if SECOND[0] in named else NEEDED
    if missing := [name for name in wanted if name not in there]:
        raise HostError(
            f"'{folder}' is a {shown(index.get('_class_name'))} without {missing[0]}, expected Stable Diffusion with "
            f"{', '.join(wanted)}: get the missing folders, or give another base model"
        )
    _check_classes(folder, {name: there[name] for name in wanted})
    config = _read_table(folder / "unet" / "config.json", "configuration of the U-Net")
    check_channels(str(folder), config.get("in_channels"))
    side = config.get("sample_size")
    return Layout(folder, there, side if isinstance(side, int) else None)


def load_folder(layout: Layout, dtype: torch.dtype) -> Any:
    """Return the pipeline of a folder, on the CPU. HostError for a part that is missing, damaged or incomplete."""
    import diffusers

    kind: Any = diffusers.StableDiffusionXLPipeline if layout.xl else diffusers.StableDiffusionPipeline
    optional = (UNUSED, "feature_extractor") if layout.xl else (UNUSED, *CHECKER)
    wanted = (*NEEDED, *SECOND) if layout.xl else (*NEEDED, *(CHECKER if _has_checker(layout) else ()))
    classes = {**layout.parts, **OF_CHECKER}
    parts = {name: _load_part(layout.folder / name, *classes[name], dtype) for name in wanted}
    absent = dict.fromkeys(name for name in optional if name not in parts)
    try:
        # `from_pretrained` would import all kinds of guidance to see that none of the parts is one.
        return kind(**_settings(layout.folder, kind, {*parts, *absent}), **parts, **absent)
    except Exception as error:
        raise HostError(f"'{layout.folder}' cannot be loaded as a diffusers folder: {one_line(error)}") from error


def _settings(folder: Path, kind: Any, parts: Container[str]) -> dict[str, Any]:
    """Return what a folder's list of parts says beside them, such as whether an empty prompt is zeros for SDXL."""
    takes = inspect.signature(kind).parameters
    index = _read_table(folder / INDEX, "list of parts")
    return {name: value for name, value in index.items() if name in takes and name not in parts}


def check_channels(name: str, channels: object) -> None:
    """Raise HostError unless a base model's U-Net reads latents alone, or what inpainting models read."""
    if channels in (PLAIN, INPAINTING):
        return
    kind = f" (it is {OTHERS[channels]})" if isinstance(channels, int) and channels in OTHERS else ""
    raise HostError(
        f"'{name}' reads {channels} latent channels{kind}, expected {PLAIN}, or {INPAINTING} of an inpainting model: "
        "give the plain model, with a control model for what you want"
    )


def _check_classes(folder: Path, parts: Mapping[str, tuple[Any, ...]]) -> None:
    """Raise HostError for parts of other kinds of models, or of no library."""
    for name, (library, kind) in parts.items():
        if library not in LIBRARIES:
            raise HostError(
                f"the {name} of '{folder}' is a {kind} of '{library}', expected one of {' or '.join(LIBRARIES)}: "
                "code that comes with a model is not run, so give another base model"
            )
        if kind not in CLASSES.get(name, (kind,)):
            raise HostError(
                f"the {name} of '{folder}' is a {kind}, expected {' or '.join(CLASSES[name])}: give a base model of "
                "SD 1.x, SD 2.x or SDXL"
            )


def _load_part(folder: Path, library: str, name: str, dtype: torch.dtype) -> Any:
    """Return a part of a pipeline; networks have no weight missing."""
    try:
        kind = getattr(importlib.import_module(library), name)
        if not issubclass(kind, nn.Module):
            return _load_other(kind, folder)
        return _load_network(kind, folder, dtype)
    except ControlError:
        raise
    except Exception as error:  # whatever a damaged file makes the libraries raise
        raise HostError(
            f"the {folder.name} of '{folder.parent}' cannot be loaded ({one_line(error)}): get its files again"
        ) from error


def _load_other(kind: Any, folder: Path) -> Any:
    """Return a tokenizer, scheduler or picture processor."""
    from diffusers import SchedulerMixin

    if folder.name == "scheduler" and not issubclass(kind, SchedulerMixin):
        raise HostError(f"the scheduler of '{folder.parent}' is a {kind.__name__}, which is none: get the folder again")
    if folder.name.startswith("tokenizer") and not any((folder / name).is_file() for name in VOCABULARY):
        raise HostError(f"the {folder.name} of '{folder.parent}' has no {VOCABULARY[0]}: get its files again")
    return kind.from_pretrained(folder, local_files_only=True)


def _load_network(kind: Any, folder: Path, dtype: torch.dtype) -> nn.Module:
    if not (folder / "config.json").is_file():
        raise HostError(f"the {folder.name} of '{folder.parent}' has no config.json: get its files again")
    # Values are cast as they are read by diffusers, and afterwards by transformers, whose option has changed its name.
    reads = {"torch_dtype": dtype} if kind.__module__.startswith("diffusers.") else {}
    network, about = kind.from_pretrained(
        folder, variant=_variant(folder), output_loading_info=True, local_files_only=True, **reads
    )
    if missing := sorted(about["missing_keys"]):
        raise HostError(
            f"the {folder.name} of '{folder.parent}' lacks {len(missing)} weights, such as {missing[0]}: "
            "get its files again"
        )
    return network.to(dtype)


def _has_checker(layout: Layout) -> bool:
    return all(name in layout.parts for name in CHECKER) and bool(_variants(layout.folder / CHECKER[0]))


def _variants(folder: Path) -> set[str]:
    """Return the variants of weights in a folder, the plain one as empty text."""
    return {match["variant"] or "" for file in folder.iterdir() if (match := FILE.fullmatch(file.name))}


def _variant(folder: Path) -> str | None:
    """Return which variant to load: the plain one (None) where it is there. HostError where no weights are."""
    found = _variants(folder)
    if not found:
        raise HostError(f"the {folder.name} of '{folder.parent}' has no file of weights: get its files again")
    return next((name for name in PREFERRED if name in found), min(found)) or None


def _is_part(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(isinstance(each, str) for each in value)


def _read_table(path: Path, what: str) -> dict[str, Any]:
    """Return the settings that a configuration file holds. FileError or HostError for what is none."""
    found = read_json(path, what)
    if not isinstance(found, dict):
        raise HostError(f"the {what} {path} holds no table of settings: get the file again")
    return found
