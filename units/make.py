"""Request, hint and model -> the unit that the stack runs: the one place where all edges make it."""

from __future__ import annotations

from torch import Tensor

from ..core.control import ControlModel
from ..core.unit import ControlUnit
from .choices import HiresOption
from .options import beside, bound
from .request import UnitRequest


def make(
    request: UnitRequest,
    hint: Tensor,
    model: ControlModel,
    mask: Tensor | None = None,
    part: HiresOption = HiresOption.BOTH,
) -> ControlUnit:
    """Return the unit of a request, once its hint is drawn and its model loaded.

    hint: [N, C, H, W] in 0..1, -1 where the model is to invent (of several kinds see `beside`), or an embedding
    [N, T, D]. mask: where the unit acts,
    [N, 1, H, W]. part: the pass of a hires fix that it is for; BOTH where there is one pass alone. Raises HintError and
    UnitError for what does not fit together.
    """
    weights = request.block_weights
    told = bound(request, model)
    return ControlUnit(
        model=told,
        hint=beside(hint, told),
        weight=request.weight if request.enabled and acts_in(request, part) else 0.0,
        schedule=request.schedule,
        mode=request.mode,
        resize=request.resize,
        mask=mask,
        block_weights=None if weights is None else told.spread(weights.of(told.block_count)),
        delta_strength=request.delta_strength,
        uncond_weight=request.uncond_weight,
        reuse=request.reuse,
    )


def acts_in(request: UnitRequest, part: HiresOption) -> bool:
    """Return whether a unit acts in a pass of a hires fix; BOTH stands for a picture with one pass."""
    return HiresOption.BOTH in (request.hires, part) or request.hires is part
