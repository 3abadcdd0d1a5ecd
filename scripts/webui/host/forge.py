"""What differs from AUTOMATIC1111's WebUI in Forge and its relatives, whose U-Nets belong to patchers."""

# pyright: reportMissingImports=false
# The host's own modules exist only inside it.

from __future__ import annotations

import importlib.util
import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from ....core.errors import HostError
from ....core.network.base import BaseWeights
from ....core.schedule import RangeBasis
from .unet.attachment import Answers, Attachment
from .unet.kinds import acts_on
from .unet.patched import Patched
from .unet.tiles import Tiles
from .unet.unets import layer_of
from .webui import WebUI

BASIS = RangeBasis.NOISE  # what a range has always meant there
MODULE = "modules_forge"  # all of them have it, and AUTOMATIC1111's WebUI has not


def is_here() -> bool:
    """Return whether this program is one of Forge's family."""
    return importlib.util.find_spec(MODULE) is not None


class Forge(WebUI):
    """A program of Forge's family."""

    def tiles(self, canvas: Callable[[], tuple[int, int]]) -> Tiles | None:
        """Return None: extensions that draw in tiles look at the program's controls, of which the units are one."""
        return None

    def attachment(self, answers: Answers, tiles: Tiles | None) -> Attachment:
        """Return what makes units act here."""
        return Patched(lambda: self.unet, lambda: self._objects, answers)

    @property
    def base_weights(self) -> BaseWeights:
        """Return the U-Net's weights as it computes with them: LoRAs are in them, or added as a layer computes."""
        unet, patcher = self.unet, self._objects.unet
        loader = getattr(patcher, "lora_loader", None)
        loaded = getattr(patcher, "patches_uuid", None) if loader is None else loader.loaded_hash
        return BaseWeights(lambda name: _read(unet, name), (weakref.ref(unet), self.checkpoint, loaded))

    @property
    def unet(self) -> Any:
        """Return the network inside the patcher; HostError for a kind that units do not act on."""
        network = self._objects.unet.model.diffusion_model
        if not acts_on(network):
            raise HostError(
                f"the base model is a {type(network).__name__}, and units act on the U-Nets of SD 1.x, SD 2.x and "
                "SDXL, and on Anima: choose such a checkpoint, or switch the units off"
            )
        return network

    @property
    def dtype(self) -> torch.dtype:
        """Return what the base network computes in."""
        model = self._objects.unet.model
        return getattr(model, "computation_dtype", None) or model.get_dtype()

    @property
    def _objects(self) -> Any:
        """Return what holds the U-Net's patcher; the program makes a new one for each pass."""
        from modules import shared

        return shared.sd_model.forge_objects


def _read(unet: Any, name: str) -> Tensor | None:
    """Return a weight in fp32, with the LoRAs that are added as its layer computes, and out of few bits."""
    found = layer_of(unet, name)
    if found is None:
        return None
    layer, part = found
    changes = getattr(layer, f"{part}_function", None)
    if changes is not None:  # Forge Neo: each layer has a list of what is added to it
        return _changed(getattr(layer, part), changes)
    if importlib.util.find_spec("backend") is None or part not in ("weight", "bias"):
        return getattr(layer, part).detach().float()
    from backend.operations import get_weight_and_bias

    wide = {"dtype": torch.float32}
    both = get_weight_and_bias(layer, wide, wide, weight_fn=_unpacking(layer.weight), bias_fn=_unpacking(layer.bias))
    return both[0 if part == "weight" else 1].detach()


def _changed(weight: Any, changes: Iterable[Callable[[Tensor], Tensor]]) -> Tensor:
    """Return a weight in fp32 with these changes, one after the other."""
    unpack = _unpacking(weight)
    wide = (weight if unpack is None else unpack(weight)).detach().float()
    for change in changes:
        wide = change(wide)
    return wide


def _unpacking(weight: Any) -> Callable[[Tensor], Tensor] | None:
    """Return what makes plain numbers of a weight that is stored in 4 bits, in blocks (GGUF), or with scales."""
    if getattr(weight, "_layout_cls", None) is not None:  # comfy-kitchen's, which a cast leaves as they are
        return lambda stored: stored.dequantize()
    if getattr(weight, "quant_state", None) is not None:
        from backend.operations_bnb import functional_dequantize_4bit

        return functional_dequantize_4bit
    if getattr(weight, "gguf_cls", None) is not None:
        from backend.operations_gguf import dequantize_tensor

        return dequantize_tensor
    return None
