"""The network of a patcher for the length of a pass: one evaluation's shifts on it, and evaluations of it alone."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .....core.network.attach import Patches, attach_shifts, attend_with, record
from .....core.network.effects import Effects
from .....core.network.points import MIDDLE, Point
from .....core.network.rows import take_rows
from ..latents import without_frames
from .denoiser import noise_at, noise_at_sigma
from .kinds import locate_in
from .shifts import has_patch, write
from .transformers import is_transformer

COND, UNCOND = 0, 1  # in the program's list of what each part of a batch is


class Network:
    """The network that a patcher and all its clones share; model: the program's, around it.

    blocks: input blocks of a U-Net; None for a transformer, which takes nothing of what controls answer.
    """

    def __init__(self, model: Any) -> None:
        self._model, self._unet = model, model.diffusion_model
        self.blocks = None if is_transformer(self._unet) else len(self._unet.input_blocks)
        self._attached = Patches()  # for one evaluation
        self._watching = Patches()  # until `detach`
        self._watched = False

    def inputs(self, x_noisy: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """Return latents [B, C, h, w] and time [B] as the network receives them. HostError for films."""
        return without_frames(self._schedule.calculate_input(sigma, x_noisy)), self._schedule.timestep(sigma)

    def noise(self, timestep: Tensor, sigma: Tensor) -> float:
        """Return the progress along the noise schedule; that of a flow has no timesteps to tell it."""
        if self.blocks is not None:
            return noise_at(timestep)
        return noise_at_sigma(sigma, self._schedule.percent_to_sigma)

    def begin(self, options: dict[str, Any]) -> None:
        """Forget the evaluation before: tiles share one call's options, and an interrupt tells nobody."""
        self._attached.eject()
        write({}, options, self.blocks or 0)

    def shift(self, effects: Effects, options: dict[str, Any]) -> None:
        """Make the evaluation whose options these are take the shifts."""
        write(effects.shifts, options, self.blocks or 0)
        rest = {point: shift for point, shift in effects.shifts.items() if not has_patch(point)}
        if not rest:
            return
        if MIDDLE in rest and effects.middle and effects.middle[0] is not None:
            rest[MIDDLE] = _behind(effects.middle[0], rest[MIDDLE])  # the program adds that tensor after the hook
        attach_shifts(self._attached, Effects(shifts=rest), locate_in(self._unet))
        if not self._watched:
            self._watched = True
            self._watching.hook(self._unet.register_forward_hook(lambda *_: self._attached.eject(), always_call=True))

    def evaluate_alone(
        self,
        x: Tensor,
        timestep: Tensor,
        rows: tuple[int, ...],
        points: Collection[Point],
        cond: Mapping[str, Any],
        options: Mapping[str, Any],
    ) -> dict[Point, Tensor]:
        """Evaluate the U-Net without control on other latents, with these rows' prompts: `Step.evaluate`."""
        dtype = self._dtype
        if cond.get("c_concat") is not None:  # the further channels of an inpainting base are no latents
            x = torch.cat([x, take_rows(cond["c_concat"], rows).to(x)], dim=1)
        vector = {} if cond.get("y") is None else {"y": take_rows(cond["y"], rows).to(dtype)}
        found: dict[Point, Tensor] = {}
        with Patches() as patches:
            record(patches, points, locate_in(self._unet), found)
            self._unet.forward(  # not through the call, whose hooks wait for the program's own evaluations
                x.to(dtype),
                take_rows(timestep, rows).float(),
                context=take_rows(cond["c_crossattn"], rows).to(dtype),
                transformer_options=options_of(options, rows, len(timestep)),
                **vector,
            )
        return found

    def attend(self, point: Point, x: Tensor, context: Tensor) -> Tensor:
        """Return what a self-attention returns for other values: `Step.attend`."""
        return attend_with(locate_in(self._unet)(point).module, x, context)

    def detach(self) -> None:
        """Take all hooks away."""
        self._attached.eject()
        self._watching.eject()
        self._watched = False

    @property
    def _schedule(self) -> Any:
        return getattr(self._model, "predictor", None) or self._model.model_sampling

    @property
    def _dtype(self) -> torch.dtype:
        """Return what the U-Net computes in, whatever its weights are stored in."""
        named = ("computation_dtype", "manual_cast_dtype")
        known = (getattr(self._model, name, None) for name in named)
        return next((each for each in known if each is not None), None) or self._model.get_dtype()


def options_of(options: Mapping[str, Any], rows: Sequence[int], count: int) -> dict[str, Any]:
    """Return the options of a call of `count` rows as those of a call of some of them, each its own part.

    The program's U-Net writes into its options, so they are copied.
    """
    parts: Sequence[int] = options["cond_or_uncond"]
    sigmas: Tensor | None = options.get("sigmas")  # of the pictures of one part
    each = count // len(parts) if sigmas is None else len(sigmas)
    kinds = [parts[row // each % len(parts)] for row in rows]
    changed: dict[str, Any] = {"cond_or_uncond": kinds}
    if "cond_mark" in options:
        changed["cond_mark"] = options["cond_mark"].new_tensor(kinds)
    for name, kind in (("cond_indices", COND), ("uncond_indices", UNCOND)):
        if name in options:
            changed[name] = [index for index, each_kind in enumerate(kinds) if each_kind == kind]
    return {**options, **changed}


def _behind(tensor: Tensor, shift: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda h: shift(h + tensor)
