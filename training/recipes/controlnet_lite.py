"""ControlNet-Lite: plain convolutions in place of the copy; everything else is a ControlNet's (paper, figure 8c)."""

from __future__ import annotations

from typing import Any

from torch import nn

from ...models.families.controlnet_lite import FAMILY, SKIPS, ControlNetLite, LiteConfig
from ...models.layers import STANDARD
from ...pipelines.attached import LAYERS_KEY, WIDTHS_KEY, base_of
from ..choices import GAUSSIAN
from ..settings import Settings
from .recipe import Recipe, fill_zero_convolutions


class LiteRecipe(Recipe):
    """ControlNet-Lite, with the widths of the base's encoder and residuals at its skips."""

    family, starts = FAMILY, (GAUSSIAN,)
    blocks = (nn.Sequential,)

    def create(self, unet: Any, settings: Settings) -> ControlNetLite:
        level = unet.config[LAYERS_KEY] + 1  # input blocks of a level; each but the last one ends with a halving
        config = LiteConfig(
            widths=base_of(unet).blocks or (),
            halvings=frozenset(level * k for k in range(1, len(unet.config[WIDTHS_KEY]))),
            groups=unet.config["norm_num_groups"],
        )
        network = ControlNetLite(config, STANDARD)
        outputs = [*network.zero_convs.modules(), *network.middle_block_out.modules()]
        fill_zero_convolutions([*outputs, network.input_hint_block[-1]], settings.start)
        return network

    def given(self, unet: Any, settings: Settings) -> dict[str, Any]:
        return {"norm_groups": unet.config["norm_num_groups"], "residuals": SKIPS}
