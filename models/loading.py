"""Files on disk -> names, shapes, tensors; nothing that a file contains is ever executed.

safetensors files are judged by their header before a tensor is read; the old pickle formats go through PyTorch's
weights-only loader, which builds tensors and refuses everything else.
"""

from __future__ import annotations

import json
import pickle
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open  # pyright: ignore[reportUnknownVariableType]
from safetensors.torch import load_file  # pyright: ignore[reportUnknownVariableType]
from torch import Tensor

from ..core.errors import DamagedModelError, ModelError

MAX_HEADER = 100_000_000  # bytes, the limit of the format
MAX_TENSORS = 20_000  # an SDXL checkpoint with text encoders has 2 600
PICKLES = (".pth", ".pt", ".ckpt", ".bin")
PREFIX = "controlstack."  # of our settings in a file's metadata
FOLDER_FILES = (
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.fp16.safetensors",
    "diffusion_pytorch_model.bin",
)
CONFIG = "config.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What a file says of itself before its tensors are read."""

    path: Path
    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, str]
    metadata: Mapping[str, str]
    size: int  # bytes


def find_weights(path: Path) -> Path:
    """The weights file that a path means: itself, or the one in a diffusers folder."""
    if path.is_dir():
        found = [path / name for name in FOLDER_FILES if (path / name).is_file()]
        if not found:
            raise ModelError(f"'{path}' is a folder without {FOLDER_FILES[0]}: give a model file or a diffusers folder")
        return found[0]
    if not path.is_file():
        raise ModelError(f"there is no model file '{path}'")
    if path.stat().st_size == 0:
        raise DamagedModelError(f"'{path}' is empty: download it again")
    return path


def read_header(path: Path) -> Header:
    """The names and shapes in a model file; of a pickle format the whole file has to be read."""
    file = find_weights(path)
    if file.suffix.lower() in PICKLES:
        return _header_of(file, _read_pickle(file))
    return _read_safetensors_header(file)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a model file, on the CPU, each checked to be finite."""
    file = find_weights(path)
    tensors = _read_pickle(file) if file.suffix.lower() in PICKLES else _read_safetensors(file)
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise DamagedModelError(f"'{file.name}' holds NaN or infinite values in '{name}': get the file again")
    return tensors


def read_settings(path: Path, header: Header, given: Mapping[str, str] | None = None) -> dict[str, str]:
    """What no shape tells: the file's metadata, then a JSON file beside it, then the user's word, the last one wins."""
    own = {key.removeprefix(PREFIX): value for key, value in header.metadata.items() if key.startswith(PREFIX)}
    return {**own, **_sidecar(path), **(given or {})}


def _sidecar(path: Path) -> dict[str, str]:
    if path.is_dir():
        return _diffusers_settings(_read_json(path / CONFIG)) if (path / CONFIG).is_file() else {}
    beside = path.with_suffix(".json")
    return {key: str(value) for key, value in _read_json(beside).items()} if beside.is_file() else {}


def _diffusers_settings(config: Mapping[str, Any]) -> dict[str, str]:
    """The part of a diffusers ControlNet's config that its weights do not show. `attention_head_dim` counts heads."""
    settings: dict[str, str] = {}
    heads: Any = config.get("num_attention_heads") or config.get("attention_head_dim")
    counts = cast("list[int]", heads) if isinstance(heads, list) else [heads]
    if len(set(counts)) > 1:
        settings["head_channels"] = str(config["block_out_channels"][0] // counts[0])
    elif heads is not None:
        settings["heads"] = str(counts[0])
    if "norm_num_groups" in config:
        settings["norm_groups"] = str(config["norm_num_groups"])
    if config.get("global_pool_conditions"):
        settings["global_average_pooling"] = "true"
    if config.get("controlnet_conditioning_channel_order", "rgb") == "bgr":
        settings["hint_order"] = "bgr"
    return settings


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"'{path}' is no JSON file ({error}): mend or remove it") from error
    if not isinstance(content, dict):
        raise ModelError(f"'{path}' holds no JSON object: mend or remove it")
    return cast("dict[str, Any]", content)


def _read_safetensors_header(path: Path) -> Header:
    entries = _parse_header(path)
    metadata = entries.pop("__metadata__", {})
    if len(entries) > MAX_TENSORS:
        raise DamagedModelError(f"'{path.name}' announces {len(entries)} tensors, more than {MAX_TENSORS}")
    _check_body(path)
    try:
        return Header(
            path=path,
            shapes={name: tuple(map(int, entry["shape"])) for name, entry in entries.items()},
            dtypes={name: str(entry["dtype"]) for name, entry in entries.items()},
            metadata={str(key): str(value) for key, value in metadata.items()},
            size=path.stat().st_size,
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DamagedModelError(f"'{path.name}' has a header without sense ({error!r}): get the file again") from error


def _check_body(path: Path) -> None:
    """Shapes, types and places of the tensors agree with the size of the file; no tensor is read."""
    try:
        with safe_open(path, "pt"):
            return
    except SafetensorError as error:
        raise DamagedModelError(f"'{path.name}' is damaged or truncated ({error}): get the file again") from error


def _parse_header(path: Path) -> dict[str, Any]:
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
        if length > min(MAX_HEADER, size - 8):
            raise DamagedModelError(
                f"'{path.name}' is no safetensors file, or truncated: its header announces {length} of {size} bytes"
            )
        text = file.read(length)
    try:
        entries = json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise DamagedModelError(f"'{path.name}' has an unreadable header ({error}): get the file again") from error
    if not isinstance(entries, dict):
        raise DamagedModelError(f"'{path.name}' has a header that is no table: get the file again")
    return cast("dict[str, Any]", entries)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A name that stands twice would let a file show one thing and load another."""
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a name stands twice")
    return table


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    _read_safetensors_header(path)
    try:
        return load_file(path)
    except SafetensorError as error:
        raise DamagedModelError(f"'{path.name}' is damaged or truncated ({error}): get the file again") from error


def _read_pickle(path: Path) -> dict[str, Tensor]:
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise DamagedModelError(
            f"'{path.name}' holds more than tensors and is not opened, for it could run code: get a .safetensors file"
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError) as error:
        raise DamagedModelError(f"'{path.name}' is damaged or truncated ({error}): get the file again") from error
    outer = cast("dict[str, Any]", content) if isinstance(content, dict) else {}
    state: Any = outer.get("state_dict", outer)
    if not isinstance(state, dict) or not state:
        raise DamagedModelError(f"'{path.name}' holds no table of tensors: is it a model file?")
    table = cast("dict[str, Any]", state)
    return {str(name): value for name, value in table.items() if isinstance(value, Tensor)}


def _header_of(path: Path, tensors: Mapping[str, Tensor]) -> Header:
    return Header(
        path=path,
        shapes={name: tuple(tensor.shape) for name, tensor in tensors.items()},
        dtypes={name: str(tensor.dtype).removeprefix("torch.") for name, tensor in tensors.items()},
        metadata={},
        size=path.stat().st_size,
    )
