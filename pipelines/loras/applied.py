"""LoRAs of the base model: pairs of thin matrices whose products are added to its weights for as long as a run lasts.

Low-Rank Adaptation (Hu et al. 2021): W + weight * alpha / rank * up @ down. Files come from kohya's scripts (names of
layers with underscores, of diffusers or of ldm), from diffusers and from peft. A layer is looked up in the base model
itself, so that a file for another one is refused, with a layer that is not there, instead of acting on a part.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from ...core.errors import (
    DamagedModelError,
    HostError,
    IncompatibleModelError,
    UnsupportedModelError,
)
from ...core.network.attach import Patches
from ...core.network.effects import WeightDelta
from ...models.files.loading import read_tensors
from ...models.guard import shown
from ...models.naming import to_ldm
from .file import Lora

PARTS = {  # what is changed, with the heads of its layers' names in files
    "unet": ("lora_unet_", "unet."),
    "text_encoder": ("lora_te_", "lora_te1_", "text_encoder."),
    "text_encoder_2": ("lora_te2_", "text_encoder_2."),
}
DOWN, UP, ALPHA = "down", "up", "alpha"
TAILS = {  # of a layer's name: what stands there
    ".lora_down.weight": DOWN,
    ".lora_up.weight": UP,
    ".lora_A.weight": DOWN,
    ".lora_B.weight": UP,
    ".lora.down.weight": DOWN,
    ".lora.up.weight": UP,
    ".lora_linear_layer.down.weight": DOWN,
    ".lora_linear_layer.up.weight": UP,
    "_lora.down.weight": DOWN,
    "_lora.up.weight": UP,
    ".alpha": ALPHA,
}
PROCESSOR = re.compile(r"\.processor\.(to_[qkv]|to_out)$")  # of attention, in diffusers' first names
OTHER_KINDS = {
    "hada_w": "a LoHa",
    "lokr_w": "a LoKr",
    "oft_": "an OFT",
    "dora_scale": "a DoRA",
    "lora_mid": "a LoCon with a middle",
    "lora_magnitude_vector": "a DoRA",
}


@contextmanager
def applied(pipeline: Any, loras: Sequence[Lora]) -> Iterator[None]:
    """Add LoRAs to a pipeline's networks while this is open; afterwards every weight has its old bytes.

    IncompatibleModelError for a layer that the base model does not have, HostError for weights that are not in memory.
    """
    with Patches() as patches:
        for lora in loras:
            _add(patches, pipeline, lora)
        yield


def _add(patches: Patches, pipeline: Any, lora: Lora) -> None:
    known = {part: _layers(part, network) for part in PARTS if (network := getattr(pipeline, part, None)) is not None}
    for part, delta in _read(Path(lora.path), known).items():
        weights = dict(getattr(pipeline, part).named_parameters())
        for name in sorted(delta.names):
            weight, change = weights[name], delta.of(name)
            if weight.device.type == "meta":
                raise HostError(
                    f"the LoRA '{shown(lora.name)}' changes weights that are not in memory: use --offload model or none"
                )
            if change.numel() != weight.numel():
                raise IncompatibleModelError(
                    f"the LoRA '{shown(lora.name)}' changes '{name}' {list(change.shape)}, and the base model has "
                    f"{list(weight.shape)}: load the base model that it was trained with"
                )
            patches.add_to_weight(weight, change.reshape(weight.shape).to(weight.device) * lora.weight)


def _layers(part: str, network: Any) -> dict[str, str]:
    """Return name in a file -> name of the weight, for every layer of a network."""
    weights = {name: name for name, value in network.named_parameters() if name.endswith(".weight") and value.ndim > 1}
    ldm = {value: name.removesuffix(".weight") for name, value in to_ldm(weights).items()} if part == "unet" else {}
    found: dict[str, str] = {}
    for name in weights:
        layer = name.removesuffix(".weight").removeprefix("text_model.")
        said = [layer, f"text_model.{layer}"] if part != "unet" else [layer, ldm[name]]
        for each in said:
            for head in PARTS[part]:
                found[head + (each.replace(".", "_") if head.endswith("_") else each)] = name
        if part == "unet":
            found[layer] = name  # files of one network alone need no head
    return found


def _read(path: Path, known: Mapping[str, Mapping[str, str]]) -> dict[str, WeightDelta]:
    """Return what a file adds to each network."""
    layers: dict[str, dict[str, Tensor]] = {}
    for name, tensor in read_tensors(path).items():
        layer, what = _split(name, path)
        layers.setdefault(layer, {})[what] = tensor
    pairs: dict[str, dict[str, tuple[Tensor, Tensor, float]]] = {}
    for layer, tensors in layers.items():
        if DOWN not in tensors or UP not in tensors:
            raise DamagedModelError(f"'{path.name}' has only a part of the layer '{shown(layer)}': get the file again")
        part, weight = _find(layer, path, known)
        down, up = tensors[DOWN].float(), tensors[UP].float().flatten(1)
        if down.shape[0] != up.shape[1]:
            raise DamagedModelError(f"'{path.name}': the two parts of '{shown(layer)}' do not fit: get the file again")
        scale = float(tensors[ALPHA]) / len(down) if ALPHA in tensors else 1.0
        pairs.setdefault(part, {})[weight] = (up, down, scale)
    return {part: WeightDelta(low_rank=several) for part, several in pairs.items()}


def _split(name: str, path: Path) -> tuple[str, str]:
    """Return (layer, what) of a tensor's name. UnsupportedModelError for what is no plain LoRA."""
    for word, kind in OTHER_KINDS.items():
        if word in name:
            raise UnsupportedModelError(f"'{path.name}' is {kind}, which is not read: get it as a plain LoRA")
    for tail, what in TAILS.items():
        if name.endswith(tail):
            return PROCESSOR.sub(r".\1", name.removesuffix(tail)), what
    raise UnsupportedModelError(f"'{path.name}' is no LoRA (it holds '{shown(name)}'): give a LoRA of the base model")


def _find(layer: str, path: Path, known: Mapping[str, Mapping[str, str]]) -> tuple[str, str]:
    """Return (network, weight) of a layer. IncompatibleModelError if the base model has no such layer."""
    said = layer.removesuffix("_lora").removeprefix("base_model.model.")
    for name in (said, f"{said}.0", f"{said}_0"):  # to_out is a list of one layer, which early files leave out
        for part, layers in known.items():
            if name in layers:
                return part, layers[name]
    raise IncompatibleModelError(
        f"'{path.name}' changes '{shown(layer)}', which this base model does not have: load the base model that the "
        "LoRA was trained with"
    )
