"""T2I-Adapter: a small network that reads the hint alone; it starts from random weights (Mou et al. 2024, section 3.2).

Times are drawn with a cubic density that favours noisy ones, where the layout of a picture is decided (section 3.3).
The network has the widths of the original, two residual blocks a level, and adds to the encoder's stream.
"""

from __future__ import annotations

from typing import Any

import torch

from ...core.errors import UnsupportedModelError
from ...models.families.t2i_adapter import FAMILY, LEVELS, Adapter, AdapterConfig, Residual
from ...pipelines.attached import base_of
from ..settings import Settings
from .recipe import Recipe

DEPTH = 2  # residual blocks a level
XL_LEVELS = 3  # of SDXL's U-Net, whose last width serves the middle too


class AdapterRecipe(Recipe):
    """Full adapters, and those for SDXL."""

    family, times = FAMILY, "cubic"
    blocks = (Residual,)

    def create(self, unet: Any, settings: Settings) -> Adapter:
        widths = list(unet.config["block_out_channels"])
        xl = len(widths) == XL_LEVELS
        if len(widths) not in (XL_LEVELS, LEVELS):
            raise UnsupportedModelError(
                f"the base has {len(widths)} levels, expected {LEVELS} (SD 1.x, SD 2.x) or {XL_LEVELS} (SDXL): an "
                "adapter has no place for more"
            )
        channels = tuple([*widths, widths[-1]] if xl else widths)
        config = AdapterConfig(channels=channels, inner=channels, depth=DEPTH, kernel=1, hint_channels=3, xl=xl)
        network = Adapter(config)
        assert config.base.blocks is not None
        if config.base.blocks != (base_of(unet).blocks or ())[: len(config.base.blocks)]:
            raise UnsupportedModelError("the base has other blocks than Stable Diffusion, to which adapters are bound")
        return network.to(torch.float32)
