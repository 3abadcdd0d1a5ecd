"""What a run needs of the WebUI's base model and device."""

# pyright: reportMissingImports=false
# The host's own modules exist only inside it.

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import torch
from torch import Tensor

from ....core.control import ControlModel
from ....core.errors import HostError
from ....core.network.base import BaseWeights
from .latents import Latents
from .memory import GIB, Residency, free_on, network_of
from .unet.attachment import Answers, Attachment
from .unet.hooked import Hooked
from .unet.tiles import Tiles
from .unet.unets import read_weight

KEEP_FREE = 2 * GIB  # on the device after a run, for decoding the picture


class WebUI:
    """AUTOMATIC1111's WebUI, as `core.host.Host` and beyond."""

    def __init__(self) -> None:
        from modules import devices

        self.device = devices.device
        self.residency = Residency(self.device, devices.cpu, lambda: free_on(self.device))
        self.latents = Latents(self.device)

    def tiles(self, canvas: Callable[[], tuple[int, int]]) -> Tiles | None:
        """Return what extensions that draw in tiles find; canvas: height and width of the picture in latent pixels."""
        return Tiles(canvas)

    def attachment(self, answers: Answers, tiles: Tiles | None) -> Attachment:
        """Return what makes units act here."""
        return Hooked(lambda: self.unet, answers, tiles, keep=not self.saves_memory)

    def ready(self, model: ControlModel) -> AbstractContextManager[object]:
        """Keep the model's network on the device, without automatic casting: it computes in its own dtype."""
        from modules import devices

        stack = ExitStack()
        stack.enter_context(devices.without_autocast())
        if self.device.type == "cpu":  # there the WebUI casts around weights in 8 bits, and the line above is for CUDA
            stack.enter_context(torch.autocast("cpu", enabled=False))
        stack.enter_context(self.residency.ready(network_of(model)))
        return stack

    def follow(self, model: ControlModel) -> bool:
        """Let the model follow the U-Net's weights under the LoRAs of the moment; it is home while it is changed."""
        weights = self.base_weights
        if model.followed == weights.key:
            return False
        self.residency.send_home(network_of(model))
        return model.follow(weights)

    @property
    def base_weights(self) -> BaseWeights:
        """Return the U-Net's weights as it computes with them; LoRAs write into a layer when that computes next."""
        from modules import shared

        unet, lora = self.unet, sys.modules.get("networks")
        loaded = tuple((each.name, each.unet_multiplier, each.dyn_dim) for each in getattr(lora, "loaded_networks", ()))
        functional = bool(shared.opts.data.get("lora_functional", False))  # then LoRAs act beside the weights

        def prepared(layer: Any) -> None:
            if lora is not None and not functional:
                lora.network_apply_weights(layer)

        key = (weakref.ref(unet), self.checkpoint, () if functional else loaded)
        return BaseWeights(lambda name: read_weight(unet, name, prepared), key)

    def check_interrupt(self) -> None:
        """End the run between two units if the user stopped or skipped it."""
        from modules import sd_samplers_common, shared

        if shared.state.interrupted or shared.state.skipped:
            raise sd_samplers_common.InterruptedException

    def encode(self, picture: Tensor) -> Tensor:
        """Return latents of pictures [N, 3, H, W] in 0..1, scaled as the base network receives them."""
        return self.latents.encode(picture)

    def before_run(self, low_vram: bool) -> None:
        """Prepare for a run; low_vram: use as little memory on the device as possible, at the price of time."""
        self.residency.frugal = low_vram
        if low_vram:
            self.residency.release()

    def after_run(self, low_vram: bool) -> None:
        """Make room on the device for what follows the sampling."""
        self.latents.forget()
        self.residency.release(None if low_vram or self.saves_memory else KEEP_FREE)

    @property
    def saves_memory(self) -> bool:
        """Return whether parts of the checkpoint take turns on the device: --lowvram, --medvram, --medvram-sdxl."""
        from modules import shared

        return bool(getattr(shared.sd_model, "lowvram", False))

    @property
    def unet(self) -> Any:
        """Return the U-Net that computes now; HostError while another engine computes instead of it."""
        from modules import sd_unet, shared

        if sd_unet.current_unet is not None:
            raise HostError(
                f"the U-Net '{sd_unet.current_unet.option.label}' computes instead of the checkpoint's own and takes "
                "no control: choose 'None' at SD Unet in the settings, or switch the units off"
            )
        if not hasattr(shared.sd_model, "model"):
            raise HostError(
                f"this WebUI keeps its U-Net in a {type(shared.sd_model).__name__}, which ControlStack does not know "
                "yet: switch the units off, or use AUTOMATIC1111's WebUI"
            )
        return shared.sd_model.model.diffusion_model

    @property
    def checkpoint(self) -> str:
        """Return what stands for the loaded base model."""
        from modules import shared

        return str(shared.sd_model.sd_model_hash)

    @property
    def dtype(self) -> torch.dtype:
        """Return what the base network computes in; weights in 8 bits are stored so, but computed in 16."""
        from modules import devices

        return devices.dtype_inference if devices.fp8 else devices.dtype_unet
