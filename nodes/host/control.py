"""Our units as one control object of the host: all of a stack in one, shared by the positive and the negative prompt.

The host copies control objects between graphs and may run one twice, so what the user said (`UnitSpec`) is kept apart
from what a run knows (`Run`), which begins in `pre_run` and ends in `cleanup`. The host leaves `cleanup` out when a run
is interrupted or fails; a callback on its model patcher is then what ends it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import comfy.controlnet
import comfy.model_management
import comfy.patcher_extension
import comfy.utils
import torch
from torch import Tensor

from ...core.errors import HostError
from ...core.network.base import LATENT
from ...core.network.lists import Lists
from ...core.schedule import RangeBasis, Schedule
from ...core.unit import ControlUnit
from ..reports.report import Report
from ..spec import Units, UnitSpec
from .base import check_units
from .foreign.controls import PICTURE, Call
from .member import Member, Own, member_of, reads_inpaint_mask
from .parts.area import KEY as AREA
from .parts.area import Area, Canvas
from .parts.tiles import Part, part_of, place_map
from .patches import KEY, withdraw
from .run import Run
from .union import told_by_host
from .weights import weight_hooks

ACTIVATIONS = 0.5  # share of the base network's that one control network needs: it is the encoder half
BYTES = 0.01 * 2**20  # of activations per latent pixel and byte of the dtype, as the host estimates its U-Nets


class StackControl(comfy.controlnet.ControlBase):
    """The units of one Apply node. `last` is the report of the latest run."""

    def __init__(self, specs: Units = (), vae: Any = None, tell: Callable[[Report], None] | None = None) -> None:
        super().__init__()
        self.specs, self.vae, self.canvas = specs, vae, Canvas()
        self.members: tuple[Member, ...] = tuple(member_of(spec, vae) for spec in specs)
        self.cond_hint_original = _places(specs)
        self.last: Report | None = None
        self._tell = tell
        self._run: Run | None = None

    def units(self) -> Sequence[ControlUnit]:
        """Return the units as the core has them; errors name what is wrong with one."""
        part = None if self.cond_hint_original is None else part_of(self.cond_hint_original)
        return tuple(_unit(spec, member, part) for spec, member in zip(self.specs, self.members, strict=True))

    def copy(self) -> StackControl:
        copied = StackControl(self.specs, self.vae, self._tell)
        copied.canvas = self.canvas  # which the prompts know
        self.copy_to(copied)
        return copied

    def deepclone_multigpu(self, load_device: Any, autoregister: bool = False) -> StackControl:
        """Return the same units with networks of their own on another device; some hosts share a step among devices.

        The clone reads its part of each step; the report is of the main device, which takes part in every step.
        """
        cloned, moved = self.copy(), cache(lambda member: member.on(load_device))
        cloned.members, cloned._tell = tuple(moved(member) for member in self.members), None
        if autoregister:
            self.multigpu_clones[load_device] = cloned
        return cloned

    def get_models(self) -> list[Any]:
        """Return every network once, also where several units or an earlier control share it."""
        found = super().get_models()
        for member in self.members:
            found += [patcher for patcher in member.patchers if patcher not in found]
        return found

    def get_extra_hooks(self) -> list[Any]:
        foreign = [hook for each in self._foreign() for hook in each.get_extra_hooks()]
        changes = any(member.model.delta is not None for member in self.members)  # units look at every pixel
        return super().get_extra_hooks() + foreign + (weight_hooks(self.units()) if changes else [])

    def inference_memory_requirements(self, dtype: torch.dtype) -> float:
        """Return the bytes of activations. Units run one after the other, so the largest counts."""
        needs = [self._activations(unit, dtype) for unit in self.units()]
        needs += [control.inference_memory_requirements(dtype) for control in self._foreign()]
        return super().inference_memory_requirements(dtype) + max(needs, default=0)

    def pre_run(self, model: Any, percent_to_timestep_function: Callable[[float], float]) -> None:
        """Begin a run. The host calls this once for each prompt that holds the control."""
        super().pre_run(model, percent_to_timestep_function)
        begins = self._run is None or not self._run.belongs_to(model)
        units = self.units() if begins else ()
        if begins:
            check_units(model, units, self.members)
        for member in self.members:
            member.begin(model, percent_to_timestep_function)
        if begins:
            self._run = Run(model, percent_to_timestep_function, units, self.members, self.canvas, self.vae)
            self._begin_with(model.current_patcher)

    def get_control(
        self, x_noisy: Tensor, t: Tensor, cond: dict[str, Any], batched_number: int, transformer_options: dict[str, Any]
    ) -> Lists | None:
        """Return the residuals of this call, ours after those of earlier controls; write into it what is none."""
        if self._run is None:
            raise HostError("the host asked for control outside a run: it did not call pre_run")
        areas: tuple[Area | None, ...] = cond.get(AREA, (None,))
        if AREA in cond and None in areas:
            self.canvas.show(*x_noisy.shape[-2:])
        before = None
        call = Call(x_noisy, t, cond, batched_number, transformer_options)
        withdraw(call)  # of an earlier call, where a sampler hands the same options over at each
        if self.previous_controlnet is not None:
            before = self.previous_controlnet.get_control(x_noisy, t, cond, batched_number, transformer_options)
        cond.pop(AREA, None)  # the base network does not see it; an earlier control of ours has taken it already
        return self._run.control(call, areas, before)

    def cleanup(self) -> None:
        """End the run and keep its report."""
        super().cleanup()
        for control in self._foreign():
            control.cleanup()
        run, self._run = self._run, None
        if run is None:
            return
        self.last = run.close()
        if self._tell is not None:
            self._tell(self.last)

    def _foreign(self) -> list[Any]:
        return [member.control for member in self.members if member.control is not None]

    def _activations(self, unit: ControlUnit, dtype: torch.dtype) -> float:
        """Return the activations of one unit, for cond and uncond rows; its hint counts as large as the picture."""
        pixels = len(unit.hint) * unit.hint[0, 0].numel() / LATENT**2  # of an embedding its width, which is little
        return 2 * pixels * comfy.model_management.dtype_size(dtype) * BYTES * ACTIVATIONS

    def _begin_with(self, patcher: Any) -> None:
        """Share the canvases of the run's controls, and end the run when the host is done with the model."""
        if patcher is None:  # a pack that samples by itself, and has to call cleanup
            self.canvas.begin([])
            return
        beside = patcher.get_attachment(KEY) or []
        patcher.set_attachments(KEY, beside)
        self.canvas.begin(beside)
        event, key = comfy.patcher_extension.CallbacksMP.ON_CLEANUP, f"{KEY}.{id(self)}"

        def end(ended: Any) -> None:
            ended.remove_callbacks_with_key(event, key)
            ended.remove_attachments(KEY)
            self.cleanup()

        patcher.remove_callbacks_with_key(event, key)
        patcher.add_callback_with_key(event, key, end)


def _unit(spec: UnitSpec, member: Member, part: Part | None) -> ControlUnit:
    """Return one unit, of the whole picture or of the part that a tiled upscaler draws alone."""
    mask = spec.mask if spec.mask is None or part is None else part.cut(spec.mask)
    return spec.unit(member.model, _hint(spec, part), mask, member.strength)


def _hint(spec: UnitSpec, part: Part | None) -> Tensor:
    """Return a picture [N, H, W, C] as [N, 3, H, W], cut to the part; an embedding [N, T, D] as it is.

    [N, 4, H, W] where the control reads what is to be invented: that is black in the picture, and 1 in the last one.
    """
    if spec.hint.ndim == 3:
        return spec.hint
    picture = spec.hint[..., :PICTURE]
    if spec.inpaint_mask is not None and reads_inpaint_mask(spec):
        invented = _fitted(spec.inpaint_mask, picture)
        picture = torch.cat([picture * (1 - invented).round(), invented], dim=-1)
    return (picture if part is None else part.cut(picture)).movedim(-1, 1)


def _fitted(mask: Tensor, picture: Tensor) -> Tensor:
    """Return a mask [N, h, w] as [M, H, W, 1] of pictures [M, H, W, C], by the host's resizing, as its node does."""
    height, width = picture.shape[1:3]
    scaled = comfy.utils.common_upscale(mask[:, None], width, height, "bilinear", "center")
    return comfy.utils.repeat_to_batch_size(scaled, len(picture)).movedim(1, -1)


def _places(specs: Units) -> Tensor | None:
    """Return a map of places as large as the largest hint, so that a cut in it is exact to the pixel for every hint."""
    sizes = [(spec.hint.shape[1], spec.hint.shape[2]) for spec in specs if spec.hint.ndim == 4]
    return place_map(*max(sizes, key=lambda size: size[0] * size[1])) if sizes else None


class LoadedControl(StackControl):
    """One control model, as our loader gives it out. The host's own Apply nodes can use it as any other."""

    def __init__(self, own: Own) -> None:
        super().__init__()
        self.own = own
        self.members = (own,)

    def units(self) -> Sequence[ControlUnit]:
        """Return what the host's Apply node said: an image, a strength, and a range on the noise schedule."""
        name, image = self.own.model.name, self.cond_hint_original
        if image is None:
            raise HostError(f"'{name}' has no hint: connect it to a node that applies it")
        start, end = self.timestep_percent_range
        schedule = Schedule(start=start, end=end, basis=RangeBasis.NOISE)
        model = self.own.model.bind(told_by_host(self, self.own.model.offers))
        return (ControlUnit(model=model, hint=image[:, :3], weight=self.strength, schedule=schedule),)

    def set_cond_hint(self, *said: Any, vae: Any = None, **more: Any) -> LoadedControl:
        """Take what the host's Apply node says; the host itself keeps a VAE for controls of other classes alone."""
        super().set_cond_hint(*said, vae=vae, **more)
        self.vae = vae
        return self

    def copy(self) -> LoadedControl:
        copied = LoadedControl(self.own)
        self.copy_to(copied)
        return copied
