"""Files of Uni-ControlNet: how they are told from others, and how they become models."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TypeVar

import torch

from ....core.network.base import Base
from ....core.options import Option
from ...family import Family, Shapes
from ...kinds.unis import KINDS, NAMES, offers
from ...layers import Kit
from ..controlnet.config import ControlNetConfig, ControlNetSettings, base_of
from .model import COLOURS, UniModel
from .network import GLOBAL, STEM, UniNet

LOCAL = "local_adapter."  # before the names of the local adapter in a checkpoint

T = TypeVar("T")


class UniFamily(Family[UniNet, ControlNetSettings]):
    """Checkpoints with a local adapter, and usually with the global one and Stable Diffusion, which is left out."""

    id, title, settings = "uni-controlnet", "Uni-ControlNet", ControlNetSettings
    bases, paper, options = "SD 1.x", "Zhao et al., NeurIPS 2023", offers()

    def detect(self, shapes: Shapes) -> bool:
        return {LOCAL + STEM + "0.weight", LOCAL + "zero_convs.0.0.weight"} <= shapes.keys()

    def layout(self, names: Collection[str]) -> str:
        return "full checkpoint" if any(name.startswith("model.diffusion_model.") for name in names) else "adapters"

    def rename(self, named: Mapping[str, T]) -> dict[str, T]:
        """Return the names of the local adapter without what stands before them, and those of the global one."""
        local = {name[len(LOCAL) :]: each for name, each in named.items() if name.startswith(LOCAL)}
        return local | {name: each for name, each in named.items() if name.startswith(GLOBAL)}

    def unsaid(self) -> ControlNetSettings:
        return self.settings(heads=1, norm_groups=1)

    def base(self, shapes: Shapes) -> Base:
        return base_of(shapes)

    def offers(self, shapes: Shapes, settings: ControlNetSettings) -> tuple[Option, ...]:
        return offers(content=any(name.startswith(GLOBAL) for name in shapes))

    def create(self, shapes: Shapes, settings: ControlNetSettings, kit: Kit) -> UniNet:
        channels = shapes[STEM + "0.weight"][1]
        if channels != len(KINDS) * COLOURS:
            raise ValueError(
                f"it reads {channels} channels, expected {len(KINDS) * COLOURS}: {COLOURS} for each kind of hint, "
                f"which are {', '.join(NAMES)}"
            )
        return UniNet(ControlNetConfig.from_shapes(shapes, settings), shapes, kit)

    def wrap(self, network: UniNet, name: str, settings: ControlNetSettings, dtype: torch.dtype | None) -> UniModel:
        return UniModel(network, name=name, dtype=dtype)


FAMILY = UniFamily()
