"""A file of the host's model folders -> a control model under the host's memory manager.

Files of our families are read by us; what we know nothing of is given to the host's own loader.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

import comfy.controlnet
import comfy.model_management as memory
import comfy.model_patcher
import comfy.ops
import torch
from comfy.ldm.modules.attention import optimized_attention
from torch import Tensor

from ...core.errors import HostError, UnsupportedModelError
from ...models.convolution import for_few_pixels
from ...models.fileless.making import make_fileless
from ...models.files.loading import Header, open_model
from ...models.kinds.fileless import FILELESS
from ...models.layers import Kit
from ...models.registry import load_open, made_for
from ...units.convention import said_by
from .control import LoadedControl
from .files import path_of
from .member import Own

_log = logging.getLogger("controlstack")

PATCH = (
    "load it with 'Load Model Patch' and apply it with 'Apply Anima LLLite', which 'Control of a Model Patch' then "
    "weighs as a unit"
)

DTYPES = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32}  # as safetensors files name them


def load(name: str, base: Any = None) -> Any:
    """Load a control model, by our loader or else the host's. UnsupportedModelError says what else the file is.

    base: the host's model patcher, whose weights "difference" files are added to.
    """
    if name in FILELESS:
        return LoadedControl(_fileless(name, base))
    path = path_of(name)
    try:
        return LoadedControl(_own(path, base, memory.get_torch_device()))
    except UnsupportedModelError:
        control = _of_host(path, base)
        if control is None:
            raise
        return control


def _fileless(name: str, base: Any) -> Own:
    """Return a model that has no file; HostError without the base model, on which alone it acts."""
    if base is None:
        raise HostError(
            f"'{name}' has no file and acts on the base model alone: connect the model that is sampled to the loader's "
            "input 'model'"
        )
    return Own(make_fileless(name, _weights(base)), None, lambda _: _fileless(name, base))


def _of_host(path: Path, base: Any) -> Any:
    """Return the control that the host's own loader makes of a file; None where it makes none."""
    try:
        return comfy.controlnet.load_controlnet(str(path), base)
    except Exception as error:  # noqa: BLE001 - nobody can list what it raises for a file of another kind
        _log.info("the host's loader does not read %s either: %r", path, error)
        return None


def _own(path: Path, base: Any, device: torch.device) -> Own:
    """Load the network of a file for one device.

    Its weights are of the dtype, and its layers of the kind, that the host chooses for a network of this file, so that
    the host can keep them where it wants and cast them as they are used.
    """
    with open_model(path) as file:
        if made_for(file.header).transformer is not None:
            raise UnsupportedModelError(f"'{file.header.name}' is a control of a transformer, and of no U-Net: {PATCH}")
        dtype = memory.unet_dtype(model_params=-1, weight_dtype=_dtype_of(file.header))
        compute = memory.unet_manual_cast(dtype, device)
        model = load_open(
            file,
            base_state=None if base is None else _weights(base),
            kit=Kit(for_few_pixels(comfy.ops.pick_operations(dtype, compute)), _attend),
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
