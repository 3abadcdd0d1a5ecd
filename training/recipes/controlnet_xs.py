"""ControlNet-XS: a small encoder beside the base's (Zavadski et al., ECCV 2024), as diffusers makes a fresh adapter.

`ControlNetXSAdapter.from_unet` gives it a share of the base's widths, a tenth unless it is said. Everything starts from
random weights but the convolutions between the streams and the last one of the hint encoder, which are zero: so the
untrained control adds exactly nothing, nor does it hear anything. The time embedding is the base's, and is not trained.
The rate is that of the authors' configurations (vislearn/ControlNet-XS).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...core.control import ControlModel
from ...core.errors import ScheduleError, UnsupportedModelError
from ...models.families.controlnet_xs import FAMILY, ControlNetXSModel, adapter_names
from ...models.files.loading import read_header
from ...models.files.sources import read_settings
from ...models.layers import ResBlock, TransformerBlock
from ...pipelines.attached import LAYERS_KEY, WIDTHS_KEY
from ...pipelines.quiet import quiet
from ..settings import Settings
from .copies import settings_of
from .recipe import Recipe

RATIO = 0.1  # of the widths, diffusers' example
LEAST = 16  # channels of the first level; a base of which a tenth is less gets a wider one, by its share
LAYERS = 2  # residual blocks of a level, for which the family is defined


class XSRecipe(Recipe):
    """Adapters for SD 1.x, SD 2.x and SDXL."""

    family, options = FAMILY, frozenset({"size_ratio"})
    blocks, needs_heads = (ResBlock, TransformerBlock), True

    def create(self, unet: Any, settings: Settings) -> nn.Module:
        from diffusers import ControlNetXSAdapter

        _check_layers(unet)
        ratio = settings.size_ratio or max(RATIO, min(1.0, LEAST / unet.config[WIDTHS_KEY][0]))
        _check_width(unet, ratio)
        with quiet():  # diffusers warns of a cast that changes nothing
            adapter = ControlNetXSAdapter.from_unet(unet, size_ratio=ratio)
        given = FAMILY.settings(**self.given(unet, settings))
        return FAMILY.load(adapter.state_dict(), given, name=self.id, dtype=torch.float32).network

    def continued(self, path: Path, unet: Any, settings: Settings) -> nn.Module:
        _check_layers(unet)
        network = super().continued(path, unet, settings)
        said, own = read_settings(FAMILY.settings, read_header(path), None, FAMILY.of_config), settings_of(unet)
        for name in ("heads", "head_channels", "norm_groups"):
            there, here = getattr(said, name), own.get(name)
            if there not in (None, here):
                raise UnsupportedModelError(
                    f"'{path.name}' has {name} {there}, its base model {here or 'another number'}: training knows the "
                    "base's alone, so start from another file"
                )
        return network

    def given(self, unet: Any, settings: Settings) -> dict[str, Any]:
        return dict(settings_of(unet))

    def state(self, network: nn.Module) -> Mapping[str, Tensor]:
        return adapter_names(network.state_dict())

    def check(self, settings: Settings) -> None:
        super().check(settings)
        if settings.size_ratio and settings.start is not None:
            raise ScheduleError("--size-ratio is of a fresh start, and a file has its size: leave it or --start out")

    def check_model(self, model: ControlModel, path: Path) -> None:
        assert isinstance(model, ControlNetXSModel)
        if model.bgr:
            raise UnsupportedModelError(
                f"'{path.name}' reads hints with red and blue swapped, which training does not: start from another file"
            )


def _check_layers(unet: Any) -> None:
    """Raise UnsupportedModelError for a base whose blocks the adapter's do not stand beside."""
    layers = unet.config[LAYERS_KEY]
    if layers != LAYERS:
        raise UnsupportedModelError(
            f"the base has {layers} residual blocks a level, and a ControlNet-XS stands beside {LAYERS}: train it over "
            "a base of SD 1.x, SD 2.x or SDXL"
        )


def _check_width(unet: Any, ratio: float) -> None:
    """Raise ScheduleError for a share of the widths that leaves a head of some level without a channel."""
    widths, heads = unet.config[WIDTHS_KEY], unet.config["attention_head_dim"]  # the number of heads, see `copies`
    counts = heads if isinstance(heads, (list, tuple)) else [heads] * len(widths)
    for width, count in zip(widths, counts, strict=True):
        if int(width * ratio) < count:
            raise ScheduleError(
                f"--size-ratio {ratio:g} leaves {int(width * ratio)} of {width} channels to {count} heads, expected "
                f"one for each: give {max(n / w for w, n in zip(widths, counts, strict=True)):.3g} or more"
            )
