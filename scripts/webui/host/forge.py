"""What differs from AUTOMATIC1111's WebUI in Forge and its relatives, whose U-Nets belong to patchers."""

# pyright: reportMissingImports=false
# The host's own modules exist only inside it.

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import torch

from ....core.errors import HostError
from ....core.schedule import RangeBasis
from .unet.attachment import Answers, Attachment
from .unet.patched import Patched
from .unet.tiles import Tiles
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
    def unet(self) -> Any:
        """The U-Net inside the patcher; HostError for another kind of network."""
        network = self._objects.unet.model.diffusion_model
        if not hasattr(network, "output_blocks"):
            raise HostError(
                f"the base model is a {type(network).__name__}, and units act on the U-Nets of SD 1.x, SD 2.x and "
                "SDXL: choose such a checkpoint, or switch the units off"
            )
        return network

    @property
    def dtype(self) -> torch.dtype:
        """What the base network computes in."""
        model = self._objects.unet.model
        return getattr(model, "computation_dtype", None) or model.get_dtype()

    @property
    def _objects(self) -> Any:
        """What holds the U-Net's patcher; the program makes a new one for each pass."""
        from modules import shared

        return shared.sd_model.forge_objects
