"""ControlNet: a copy of the base's encoder behind zero convolutions; half of the prompts are emptied (section 3.3).

`--start gaussian` is the paper's ablation with ordinary convolutions in place of the zero ones. `--unlock` trains part
of the base along: its decoder (cldm, `sd_locked = False`), or all of it.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from torch import nn

from ...core.control import ControlModel
from ...core.errors import UnsupportedModelError
from ...models.families.controlnet.family import FAMILY
from ...models.families.controlnet.model import ControlNetModel
from ...models.families.controlnet.network import ControlNet
from ...models.layers import ResBlock, TransformerBlock
from ..choices import COPY, GAUSSIAN
from ..settings import Settings
from .copies import copy_of_encoder, settings_of
from .recipe import Recipe, fill_zero_convolutions

DECODER = ("up_blocks.", "conv_norm_out.", "conv_out.")  # cldm: `output_blocks` and `out`


class ControlNetRecipe(Recipe):
    """Full ControlNets."""

    family, starts, options = FAMILY, (COPY, GAUSSIAN), frozenset({"only_middle", "unlock"})
    blocks, needs_heads = (ResBlock, TransformerBlock), True

    def create(self, unet: Any, settings: Settings) -> ControlNet:
        network = copy_of_encoder(unet, only_middle=settings.only_middle)
        self.fill_outputs(network, settings)
        return network

    def fill_outputs(self, network: ControlNet, settings: Settings) -> None:
        """Set the convolutions behind which nothing enters the base at first, as `--start` says.

        With the middle alone those of the skips, which never learn, stay at zero: other programs add them too.
        """
        fill_zero_convolutions([*network.zero_convs.modules()], None if settings.only_middle else settings.start)
        fill_zero_convolutions([*network.middle_block_out.modules(), network.input_hint_block[-1]], settings.start)

    def model(self, network: nn.Module, unet: Any, settings: Settings) -> ControlModel:
        assert isinstance(network, ControlNet)
        model = ControlNetModel(network, name=self.id)
        if settings.only_middle:
            model.points = model.points[-1:]
        return model

    def given(self, unet: Any, settings: Settings) -> dict[str, Any]:
        return {**settings_of(unet), "only_middle": settings.only_middle}

    def unlocked(self, unet: Any, settings: Settings) -> Collection[str]:
        names = [name for name, _ in unet.named_parameters()]
        if settings.unlock is None:
            return ()
        return names if settings.unlock == "all" else [name for name in names if name.startswith(DECODER)]

    def check_model(self, model: ControlModel, path: Path) -> None:
        assert isinstance(model, ControlNetModel)
        if model.pool or model.bgr:
            raise UnsupportedModelError(
                f"'{path.name}' averages its residuals, or reads hints with red and blue swapped: training knows "
                "neither, so start from another file"
            )
