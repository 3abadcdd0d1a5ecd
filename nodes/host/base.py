"""What the loaded base model is, and the errors of units that cannot act on it, before the first step."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from ...core.errors import HostError, IncompatibleModelError
from ...core.network.base import Base
from ...core.unit import ControlUnit
from .member import Member
from .patches import check_points


def blocks_of(model: Any) -> int | None:
    """Return how many input blocks its U-Net has; None if it is no U-Net of the latent-diffusion kind."""
    blocks = getattr(model.diffusion_model, "input_blocks", None)
    return None if blocks is None else len(blocks)


def base_of(model: Any) -> Base:
    """Return the widths of the host's base model (`comfy.model_base.BaseModel`) that control models must share."""
    config = model.model_config.unet_config
    if blocks_of(model) is None:
        return Base(context=config.get("context_dim"))
    width, per_level = config["model_channels"], config["num_res_blocks"]
    multiples = config["channel_mult"]
    counts = [per_level] * len(multiples) if isinstance(per_level, int) else per_level
    blocks = [width]
    for level, (multiple, count) in enumerate(zip(multiples, counts, strict=True)):
        blocks += [width * multiple] * count
        if level < len(multiples) - 1:
            blocks.append(width * multiple)  # the halving
    return Base(context=config.get("context_dim"), label=config.get("adm_in_channels") or 0, blocks=tuple(blocks))


def check_units(model: Any, units: Sequence[ControlUnit], members: Sequence[Member]) -> None:
    """Raise, naming the unit and both sides, unless every unit can act on this base model."""
    network = model.diffusion_model
    if not _takes_control(network):
        raise HostError(
            f"the loaded model ({type(network).__name__}) ignores control: its units would do nothing. "
            "Choose another checkpoint, or take Apply Control Units out"
        )
    base = base_of(model)
    for number, (unit, member) in enumerate(zip(units, members, strict=True), start=1):
        ours = member.control is None
        if (ours or unit.model.base != Base()) and blocks_of(model) is None:
            raise IncompatibleModelError(
                f"unit {number}: '{unit.model.name}' was trained for {unit.model.base.name}, the loaded checkpoint is "
                f"{type(network).__name__}: choose a Stable Diffusion checkpoint, or a control model for this one"
            )
        try:
            unit.model.check_base(base)
            if ours:
                check_points(unit.model, network)
            else:
                _check_latents(unit.model.name, member.control.latent_format, model)
        except IncompatibleModelError as error:
            raise IncompatibleModelError(f"unit {number}: {error}") from None


def _check_latents(name: str, made_for: Any, model: Any) -> None:
    """Raise IncompatibleModelError unless a control of the host reads the latents that its base model draws."""
    given = model.latent_format
    if made_for is None or isinstance(given, type(made_for)) or isinstance(made_for, type(given)):
        return
    raise IncompatibleModelError(
        f"'{name}' reads latents of {type(made_for).__name__}, the loaded checkpoint "
        f"({type(model.diffusion_model).__name__}) draws those of {type(given).__name__}: choose a control model for "
        "this checkpoint, or another checkpoint"
    )


def _takes_control(network: Any) -> bool:
    """Return whether a network may read control: some transformers of the host take it as a further keyword."""
    parameters = inspect.signature(network.forward).parameters
    return "control" in parameters or any(each.kind is each.VAR_KEYWORD for each in parameters.values())
