"""What a unit is between nodes: what the user said, with the host's objects, before any run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from ..core.control import ControlModel
from ..core.unit import ControlUnit
from ..units.make import make
from ..units.request import UnitRequest


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class UnitSpec:
    """One unit. `control` is what a loader of ours, of the host or of another pack gave out."""

    control: Any  # comfy.controlnet.ControlBase
    hint: Tensor  # [N, H, W, 3] in 0..1 as the host's IMAGE, -1 where ours are to invent; or an embedding [N, T, D]
    request: UnitRequest  # without pictures: they are the host's, below
    name: str
    mask: Tensor | None = None  # where the unit acts: [N, H, W], 1 = full effect, as the host's MASK
    inpaint_mask: Tensor | None = None  # [N, H, W], 1 = to be invented, for controls of the host that read it

    def unit(self, model: ControlModel, hint: Tensor, mask: Tensor | None = None, strength: float = 1.0) -> ControlUnit:
        """Return the unit of a model, of the parts that are drawn: hint [N, 3, H, W] or [N, T, D], mask [N, H, W].

        strength: the part of the weight that the model applies by itself.
        """
        request = self.request if strength == 1 else replace(self.request, weight=self.request.weight / strength)
        return make(request, hint, model, None if mask is None else mask[:, None])


Units = tuple[UnitSpec, ...]
