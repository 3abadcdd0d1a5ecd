"""Which family a file belongs to, decided by names and shapes and never by the file's name; and its way into a unit."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ..core.control import ControlModel
from ..core.errors import DamagedModelError, IncompatibleModelError, UnsupportedModelError
from .families import controlnet, t2i_adapter
from .family import Family, Shapes
from .layers import Kit
from .loading import Header, read_header, read_settings, read_tensors

REGISTRY: tuple[Family, ...] = (controlnet.FAMILY, t2i_adapter.FAMILY, t2i_adapter.STYLE_FAMILY)

STANDARD = Kit()

DIFFERENCE = "difference"  # marks a file that holds differences to the base model's weights
SHOWN = 3  # names in a message

_OTHERS = (  # (part of a name, what such a file is and what to do with it)
    ("lora_controlnet", "a Control-LoRA, which is not supported yet: use a full ControlNet"),
    ("task_embedding", "a ControlNet-Union model, which is not supported yet: use a model for one kind of hint"),
    ("lllite_", "a ControlLLLite model, which is not supported yet: use a ControlNet"),
    ("ip_adapter.", "an IP-Adapter, which is not supported: use its own loader"),
    ("image_proj.", "an IP-Adapter, which is not supported: use its own loader"),
    ("lora_", "a LoRA: load it where your program loads LoRAs"),
    ("lycoris_", "a LoRA: load it where your program loads LoRAs"),
    (".lora", "a LoRA: load it where your program loads LoRAs"),
    ("_lora.", "a LoRA: load it where your program loads LoRAs"),
    ("model.diffusion_model.", "a checkpoint without a control model: load it as the base model"),
    ("first_stage_model.", "an autoencoder (VAE): load it as such"),
    ("decoder.up.", "an autoencoder (VAE): load it as such"),
    ("decoder.up_blocks.", "an autoencoder (VAE): load it as such"),
    ("decoder.layers.", "an autoencoder (VAE, the small TAESD): load it as such"),
    ("up_blocks.0.resnets.", "a U-Net of diffusers without a control model: give it as part of the base model"),
    ("output_blocks.0.", "a U-Net without a control model: give it as part of the base model"),
    ("text_model.", "a text encoder: load it as such"),
    ("transformer.resblocks.", "a text encoder (OpenCLIP): load it as such"),
    ("encoder.block.0.layer.0.SelfAttention.", "a text encoder (T5): load it as such"),
    ("vision_model.", "an image encoder (CLIP): load it as such"),
    (".RDB1.", "an upscaler: load it as such"),
    ("conv_first.", "an upscaler: load it as such"),
    ("clip_g", "a textual-inversion embedding: load it as such"),
    ("emb_params", "a textual-inversion embedding: load it as such"),
    ("string_to_param", "a textual-inversion embedding: load it as such"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """What a control model file is, as far as it can be told without loading it."""

    family: str
    base: str
    layout: str
    dtype: str
    parameters: int
    size: int  # bytes
    settings: Mapping[str, str]
    missing: tuple[str, ...]
    misshapen: tuple[str, ...]
    unexpected: tuple[str, ...]


def identify(header: Header) -> Family:
    """The one family that recognises a file; UnsupportedModelError says what the file is instead."""
    found = [family for family in REGISTRY if family.recognises(header.shapes)]
    if len(found) == 1:
        return found[0]
    if found:
        names = " and ".join(family.title for family in found)
        raise UnsupportedModelError(f"'{header.path.name}' looks like {names}: give the setting 'family'")
    raise UnsupportedModelError(f"'{header.path.name}' is no control model: it is {_what_else(header)}")


def inspect(path: Path, settings: Mapping[str, str] | None = None) -> Description:
    """Describe a control model file; of a safetensors file only the header is read."""
    header = read_header(path)
    family, given = identify(header), read_settings(path, header, settings)
    named = family.rename({name: torch.empty(shape, device="meta") for name, shape in header.shapes.items()})
    shapes = _shapes(named)
    expected = _expected(family, shapes, given)
    return Description(
        family=family.title,
        base=family.base(shapes).name,
        layout=family.layout(header.shapes) + (" (difference)" if DIFFERENCE in header.shapes else ""),
        dtype=", ".join(sorted(set(header.dtypes.values()))),
        parameters=sum(math.prod(shape) for shape in shapes.values()),
        size=header.size,
        settings=given,
        missing=tuple(name for name in expected if name not in shapes),
        misshapen=tuple(name for name in expected if name in shapes and shapes[name] != expected[name]),
        unexpected=tuple(name for name in shapes if name not in expected),
    )


def outline(shapes: Shapes) -> ControlModel | None:
    """What a network with these shapes promises (base, slots, soft weights), without its weights; None: not of ours.

    For control networks that a host has loaded by its own means: the answer cannot compute.
    """
    found = [family for family in REGISTRY if family.recognises(shapes)]
    if len(found) != 1:
        return None
    named = found[0].rename({name: torch.empty(shape, device="meta") for name, shape in shapes.items()})
    with torch.device("meta"):
        network = found[0].create(_shapes(named), {"heads": "1"}, STANDARD)  # no promise depends on the heads
    return found[0].wrap(network, found[0].title, {}, None)


def load_control_model(
    path: Path,
    *,
    settings: Mapping[str, str] | None = None,
    base_state: Mapping[str, Tensor] | None = None,
    kit: Kit = STANDARD,
    dtype: torch.dtype | None = None,
    compute: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> ControlModel:
    """A file -> a control model, complete and checked.

    settings: the user's word on what no shape tells. base_state: weights of the base U-Net by bare ldm names, which
    "difference" files need. kit: the layers and the attention to build from. dtype: of the weights, None keeps the
    file's. compute: what the network calculates in, where layers cast their weights; None is `dtype`. Raises
    ModelError and its kinds, never loads half a model.
    """
    header = read_header(path)
    family, given = identify(header), read_settings(path, header, settings)
    tensors = read_tensors(path)
    marked = DIFFERENCE in tensors
    state = family.rename(tensors)
    if marked:
        state = _add_base(state, base_state, path.name)
    network = _build(family, state, given, kit, path.name)
    network.requires_grad_(False).eval().to(device=device, dtype=dtype)
    return family.wrap(network, path.stem if path.is_file() else path.name, given, compute or dtype)


def _build(family: Family, state: Mapping[str, Tensor], settings: Mapping[str, str], kit: Kit, name: str) -> nn.Module:
    """The network on the meta device, then the file's tensors put in its place: nothing is allocated twice."""
    shapes = _shapes(state)
    with torch.device("meta"):
        network = family.create(shapes, settings, kit)
    _check(_shapes(network.state_dict()), shapes, f"'{name}' ({family.title})")
    network.load_state_dict({key: state[key] for key in network.state_dict()}, assign=True)
    return network


def _check(expected: Shapes, given: Shapes, what: str) -> None:
    missing = [name for name in expected if name not in given]
    if missing:
        raise DamagedModelError(f"{what} lacks {len(missing)} weights, such as {', '.join(missing[:SHOWN])}")
    wrong = [name for name in expected if expected[name] != given[name]]
    if wrong:
        each = (f"{name} is {list(given[name])}, expected {list(expected[name])}" for name in wrong[:SHOWN])
        raise DamagedModelError(f"{what} has {len(wrong)} misshapen weights: {'; '.join(each)}")


def _expected(family: Family, shapes: Shapes, settings: Mapping[str, str]) -> Shapes:
    with torch.device("meta"):
        return _shapes(family.create(shapes, settings, STANDARD).state_dict())


def _add_base(state: dict[str, Tensor], base: Mapping[str, Tensor] | None, name: str) -> dict[str, Tensor]:
    """W = W_difference + W_base for every weight that the base has; what is new in the control stays absolute."""
    if base is None:
        raise DamagedModelError(f"'{name}' holds differences to its base model: load it together with a base model")
    wrong = [key for key, value in state.items() if key in base and base[key].shape != value.shape]
    if wrong:
        mine, host = list(state[wrong[0]].shape), list(base[wrong[0]].shape)
        raise IncompatibleModelError(
            f"'{name}' holds differences to another base model ({wrong[0]} is {mine}, the loaded one has {host}): load "
            "it with the base that it was made from, or a relative of it"
        )
    return {key: _sum(value, base[key]) if key in base else value for key, value in state.items()}


def _sum(difference: Tensor, weight: Tensor) -> Tensor:
    """In the wider of the two precisions, rounded once to that of the file; torch adds nothing in 8 bits."""
    wide = torch.float32 if weight.element_size() == 1 else weight.dtype
    return (difference + weight.to(difference.device, wide)).to(difference.dtype)


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _what_else(header: Header) -> str:
    for part, what in _OTHERS:
        if any(part in name for name in header.shapes):
            return what
    names = ", ".join(list(header.shapes)[:SHOWN]) or "nothing"
    return f"a file of an unknown kind (it holds {names})"
