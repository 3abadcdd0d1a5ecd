"""A file of the host's model folders -> a control model under the host's memory manager."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any, cast

import comfy.model_management as memory
import comfy.model_patcher
import comfy.ops
import folder_paths
import torch
from comfy.ldm.modules.attention import optimized_attention
from torch import Tensor

from ...core.errors import HostError
from ...models.layers import Kit, Ops
from ...models.loading import Header, open_model
from ...models.registry import load_open
from ...units.convention import said_by
from .control import LoadedControl
from .member import Own

FOLDERS = ("controlnet", "t2i_adapter", "ipadapter")  # of the host; the second only where a user added it
ADAPTERS = "ipadapter"  # which ComfyUI_IPAdapter_plus adds as well, and the host itself does not know
SUFFIXES = (".safetensors", ".bin", ".pth", ".pt", ".ckpt", ".sft")  # a folder that was added has files of any kind
DTYPES = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32}  # as safetensors files name them


def files() -> list[str]:
    """Return the names that a user can choose from; extra model paths are among them."""
    folder_paths.add_model_folder_path(ADAPTERS, str(Path(folder_paths.models_dir) / ADAPTERS))
    known = [folder for folder in FOLDERS if folder in folder_paths.folder_names_and_paths]
    found = {name for folder in known for name in folder_paths.get_filename_list(folder)}
    return sorted(name for name in found if name.lower().endswith(SUFFIXES))


def path_of(name: str) -> Path:
    """Return where a chosen file lies."""
    for folder in FOLDERS:
        if folder in folder_paths.folder_names_and_paths:
            found = folder_paths.get_full_path(folder, name)
            if found is not None:
                return Path(found)
    raise HostError(f"'{name}' is in none of the folders {', '.join(FOLDERS)}: refresh the list and choose a file")


def load(name: str, base: Any = None) -> LoadedControl:
    """Load a control model. base: the host's model patcher, whose weights "difference" files are added to."""
    return LoadedControl(_own(path_of(name), base, memory.get_torch_device()))


def _own(path: Path, base: Any, device: torch.device) -> Own:
    """Load the network of a file for one device.

    Its weights are of the dtype, and its layers of the kind, that the host chooses for a network of this file, so that
    the host can keep them where it wants and cast them as they are used.
    """
    with open_model(path) as file:
        dtype = memory.unet_dtype(model_params=-1, weight_dtype=_dtype_of(file.header))
        compute = memory.unet_manual_cast(dtype, device)
        model = load_open(
            file,
            base_state=None if base is None else _weights(base),
            kit=Kit(cast(Ops, comfy.ops.pick_operations(dtype, compute)), _attend),
            dtype=dtype,
            compute=compute,
            device=memory.unet_offload_device(),
        )
    patched = getattr(comfy.model_patcher, "CoreModelPatcher", comfy.model_patcher.ModelPatcher)
    network = model.network  # pyright: ignore[reportAttributeAccessIssue] - all models of ours have one
    patcher = patched(network, load_device=device, offload_device=memory.unet_offload_device())
    return Own(model, patcher, cache(partial(_own, path, base)), said_by(path))


def _attend(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    return optimized_attention(q, k, v, heads)


def _dtype_of(header: Header) -> torch.dtype | None:
    """Return the dtype of most of a file's weights; None where the host knows no such."""
    names = list(header.dtypes.values())
    return DTYPES.get(max(set(names), key=names.count)) if names else None


def _weights(base: Any) -> Mapping[str, Tensor]:
    """Return the base U-Net's weights by bare ldm names."""
    return base.model.diffusion_model.state_dict()
