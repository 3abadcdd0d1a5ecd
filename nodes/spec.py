"""What a unit is between nodes: the user's words, with the host's objects, before any run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ..core.resize import ResizeMode
from ..core.schedule import RangeBasis, Schedule
from ..core.unit import ControlMode


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class UnitSpec:
    """One unit. `control` is what a loader of ours, of the host or of another pack gave out."""

    control: Any  # comfy.controlnet.ControlBase
    hint: Tensor  # [N, H, W, 3] in 0..1, as the host's IMAGE, or an embedding [N, T, D]
    name: str
    weight: float = 1.0
    schedule: Schedule = field(default_factory=lambda: Schedule(basis=RangeBasis.NOISE))
    mode: ControlMode = ControlMode.BALANCED
    resize: ResizeMode = ResizeMode.CROP
    mask: Tensor | None = None  # [N, H, W], 1 = full effect, as the host's MASK
    block_weights: tuple[float, ...] | None = None
    inpaint_mask: Tensor | None = None  # [N, H, W], 1 = to be invented, for controls of the host that read it
    made_by: Mapping[str, Any] = field(default_factory=dict[str, Any])  # the preprocessor's id, parameters, resolution


Units = tuple[UnitSpec, ...]
