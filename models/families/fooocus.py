"""Fooocus's inpainting for SDXL: one convolution of what is to be kept, and changes to nearly all weights of the base.

lllyasviel, Fooocus, 2023 (`modules/inpaint_worker.py`); Acly/comfyui-inpaint-nodes reads the same two files. The head
has one weight, `head`: of the hole [N, 1, h, w] and the latents [N, 4, h, w] of the picture, grey in the hole, and with
its edges repeated, it makes what is added behind the first convolution of the base. The other file, its companion,
holds for each weight of the base what was added to it, in 8 bits between two bounds:

    difference = u / 255 * (most - least) + least
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...core.control import ControlModel, HintSpace
from ...core.errors import DamagedModelError, UnsupportedModelError
from ...core.network.base import SDXL_CONTEXT, Base
from ...core.network.effects import WeightDelta
from ...core.network.points import stream
from ..companions import PREFIXES, companion_of
from ..family import Family, Shapes
from ..features import FeatureModel
from ..files.loading import Header, open_model
from ..files.tensor_table import type_name
from ..guard import shown
from ..layers import Kit
from ..settings import FileName, Settings, setting

HEAD, READS = "head", 5  # channels: the hole, and four of latents
PATCH = "*.fooocus.patch"  # by which the companion is found
LEVELS = 255  # of 8 bits
STANDARD_WIDTH = 320  # of SDXL's first block

Parts = tuple[Tensor, Tensor, Tensor]  # values, least and most of one weight
T = TypeVar("T")


class Packed(Mapping[str, Tensor]):
    """Differences by names, each made of its 8 bits when it is asked for: whole, they take four times as much.

    parts: values in uint8, and their bounds.
    """

    def __init__(self, parts: Mapping[str, Parts]) -> None:
        self._parts = parts

    def __getitem__(self, name: str) -> Tensor:
        values, least, most = self._parts[name]
        return values.float() / LEVELS * (most.float() - least.float()) + least.float()

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts)

    def __len__(self) -> int:
        return len(self._parts)


class Head(nn.Module):
    """Hole and latents [N, 5, h, w] -> one tensor [N, channels, h, w]."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.head = nn.Parameter(torch.empty(shape))

    def forward(self, hint: Tensor) -> tuple[Tensor]:
        return (F.conv2d(F.pad(hint, (1, 1, 1, 1), mode="replicate"), self.head.to(hint)),)


class FooocusModel(FeatureModel):
    """The head as the stack sees it."""

    hint_space = HintSpace.INPAINTING


@dataclass(frozen=True, slots=True, kw_only=True)
class FooocusSettings(Settings):
    """What no shape tells."""

    companion: str | None = setting(FileName())  # the file with changes to the base's weights, in the same folder


class FooocusFamily(Family[Head, FooocusSettings]):
    """The head, which finds its patch beside it."""

    id, title, settings = "fooocus", "Fooocus inpaint", FooocusSettings
    bases, paper = "SDXL", "lllyasviel/Fooocus, 2023"

    def detect(self, shapes: Shapes) -> bool:
        return shapes.get(HEAD, ())[1:] == (READS, 3, 3)

    def rename(self, named: Mapping[str, T]) -> dict[str, T]:
        return {name: each for name, each in named.items() if name == HEAD}

    def base(self, shapes: Shapes) -> Base:
        return _base(shapes[HEAD][0])

    def create(self, shapes: Shapes, settings: FooocusSettings, kit: Kit) -> Head:
        return Head(shapes[HEAD])

    def wrap(self, network: Head, name: str, settings: FooocusSettings, dtype: torch.dtype | None) -> FooocusModel:
        base = _base(len(network.head))
        return FooocusModel(network, name=name, base=base, points=(stream(0),), hint_channels=READS, dtype=dtype)

    def join(
        self,
        model: ControlModel,
        header: Header,
        settings: FooocusSettings,
        base_state: Mapping[str, Tensor] | None,
    ) -> ControlModel:
        """Return the head with what its patch changes; UnsupportedModelError where none lies beside it."""
        path = header.weights
        found = companion_of(path, settings.companion) if settings.companion else None
        companion = found or next(iter(sorted(path.parent.glob(PATCH))), None)
        if companion is None:
            raise UnsupportedModelError(
                f"'{header.name}' is one of two files, and the patch for the base model is not beside it: put "
                "inpaint_v26.fooocus.patch into the same folder, or name it in the setting 'companion'"
            )
        model.delta = WeightDelta(tensors=Packed(_read(companion)))
        return model


FAMILY = FooocusFamily()


def _base(width: int) -> Base:
    return Base(context=SDXL_CONTEXT if width == STANDARD_WIDTH else None)


def _read(path: Path) -> dict[str, Parts]:
    """Return values and bounds of each weight in a patch, by bare ldm names."""
    with open_model(path) as file:
        state = file.tensors()
    prefix = next((each for each in PREFIXES if all(name.startswith(each) for name in state)), "")
    bare = {name[len(prefix) :]: each for name, each in state.items()}
    names = [name[: -len(".0")] for name in bare if name.endswith(".0")]
    if not names or not all({f"{name}.1", f"{name}.2"} <= bare.keys() for name in names):
        raise DamagedModelError(f"'{shown(path.name)}' holds no weights in 8 bits with their bounds: get it again")
    found = {name: (bare[f"{name}.0"], bare[f"{name}.1"], bare[f"{name}.2"]) for name in names}
    if wrong := next((name for name, parts in found.items() if parts[0].dtype != torch.uint8), None):
        kind = type_name(found[wrong][0].dtype)
        raise DamagedModelError(f"'{shown(path.name)}' has {shown(wrong)} in {kind}, expected 8 bits: get it again")
    return found
