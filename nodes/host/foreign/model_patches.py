"""Patches that nodes of the host have put on a model, such as controls of Z-Image and Qwen-Image: weighed as units are.

What such a patch changes is multiplied by weight, curve and mask; outside the range it is not called. It keeps the
strength that its own node gave it, which it may bend.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ....core.errors import HostError, UnitError
from ....core.schedule import Schedule
from .weighed import BEFORE, BEHIND, Amount, Weighed


def weigh_patches(before: Any, after: Any, weight: float, schedule: Schedule, mask: Tensor | None) -> Any:
    """Return the host's patcher `after` with the patches that `before` lacks weighed, and nothing else changed.

    mask: [N, H, W], 1 = full effect. UnitError where there is no such patch, or one that acts elsewhere.
    """
    made, known = after.clone(), {id(each) for found in _patches(before).values() for each in found}
    fresh = {name: [each for each in found if id(each) not in known] for name, found in _patches(after).items()}
    classes = _classes({name: found for name, found in fresh.items() if found})
    options, amount = made.model_options["transformer_options"], Amount(weight, schedule, mask, made.model)
    weighed = {
        name: [classes[name](each, amount) if id(each) not in known else each for each in found]
        for name, found in _patches(after).items()
    }
    made.model_options = {**made.model_options, "transformer_options": {**options, "patches": weighed}}
    return made


def _patches(patcher: Any) -> dict[str, list[Any]]:
    return patcher.model_options.get("transformer_options", {}).get("patches", {})


def _classes(fresh: Mapping[str, list[Any]]) -> Mapping[str, type[Weighed]]:
    """Return what weighs the patches of each place. UnitError where one acts elsewhere.

    One before an MLP tells a control that changes the inputs of blocks; others use the same places for other things.
    """
    if not fresh:
        raise HostError("the patched model has no patch that the model lacks: connect the model before and behind it")
    classes: Mapping[str, type[Weighed]] = BEHIND | BEFORE if "mlp_patch" in fresh else BEHIND
    elsewhere = {type(each).__name__: name for name, found in fresh.items() if name not in classes for each in found}
    if elsewhere:
        named = ", ".join(f"{kind} ({name})" for kind, name in elsewhere.items())
        raise UnitError(
            f"{named} acts where no weight, range or mask can reach it: use the strength and range of its own node"
        )
    return classes
