"""One sampling run of a stack: what begins in `pre_run`, lives through the steps, and ends in `cleanup`."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import comfy.model_management
import torch
from torch import Tensor

from ...core.control import ControlModel
from ...core.errors import HostError, ScheduleError
from ...core.network.effects import Effects
from ...core.network.joining import joined, part_of, with_shifts
from ...core.network.lists import Lists, to_lists, to_residuals
from ...core.network.points import Point
from ...core.schedule import RangeBasis, fires_on
from ...core.stack import ControlStack
from ...core.step import Step, Window
from ...core.unit import ControlUnit
from ...core.wording import counted
from ...units.saying import extra_cost, why_idle
from ..reports.report import Report, UnitReport, curve_of
from .base import blocks_of
from .clock import Clock
from .flexible import flexible, may_resize
from .foreign.controls import Call
from .member import Member
from .parts.area import Area, Canvas, rows_by_area
from .patches import Written, attend, evaluate_alone, withdraw, write
from .weights import Deltas, base_weights, check_applied, in_eight_bits

_log = logging.getLogger("controlstack")


class Run:
    """The units of one control object during one pass of a sampler."""

    def __init__(
        self,
        model: Any,
        percent_to_sigma: Callable[[float], float],
        units: Sequence[ControlUnit],
        members: Sequence[Member],
        canvas: Canvas,
        vae: Any = None,
    ) -> None:
        self._model, self._sigma_at = model, percent_to_sigma
        self._units, self._members = units, members
        self._blocks = blocks_of(model)
        self._host = _RunHost(vae, model)
        self._stack = ControlStack(units, self._host)
        self._canvas = canvas
        self._clock: Clock | None = None
        self._prompts: dict[object, object] = {}
        self._deltas: Deltas = {}

    def belongs_to(self, model: Any) -> bool:
        """Return whether it runs on this base model."""
        return self._model is model

    def control(self, call: Call, areas: tuple[Area | None, ...], before: Any) -> Lists | None:
        """Return what the host adds in this call: `before`, from earlier controls, and what the units add.

        What is no list of the host is written into the call. areas: the regions of its chunks.
        """
        if self._clock is None:
            self._clock = self._begin(call)
            self._deltas = in_eight_bits(self._units, self._model.diffusion_model)
            check_applied(self._units, self._model_for(call).current_patcher, self._deltas)
            self._units = tuple(_counted(number, unit, call) for number, unit in enumerate(self._units, start=1))
            self._stack = ControlStack(self._units, self._host)
        given = withdraw(call)  # by earlier controls of ours, for this call
        onto = Effects() if before is None else to_residuals(before, self._blocks)
        onto = replace(onto, shifts=given.shifts, tokens=given.tokens, vector=given.vector)
        deltas = {**self._deltas, **given.deltas}  # of one file, the first control's strength counts
        found = self._added(call, areas, onto, deltas)
        lists = to_lists(found, self._blocks)
        lists = flexible(lists) if may_resize(call.options) else lists
        tokens, vector = tuple(each for each in found.tokens if each is not None), found.vector
        if found.shifts or tokens or deltas or vector is not None:
            prompt = call.cond["c_crossattn"] if tokens or (vector is not None and vector.silent) else None
            y = None if vector is None else call.cond["y"]
            written = Written(found.shifts, tokens, vector, prompt, y, deltas)
            write(call, written, self._blocks, self._model_for(call).diffusion_model)
        return lists if any(lists.values()) else None

    def close(self) -> Report:
        """Release what was kept between steps, and say what was done."""
        steps = [] if self._clock is None else self._clock.all()
        sharing = Counter(id(unit.model) for unit in self._units)
        report = tuple(
            UnitReport(
                name=unit.model.name,
                firing=firing,
                curve=curve_of(unit, steps, member.strength),
                seconds=self._host.seconds[id(unit.model)] / sharing[id(unit.model)],
                size=sum(patcher.model_size() for patcher in member.patchers),
                more=extra_cost(unit.model),
                idle="" if firing.fired or not firing.steps else why_idle(unit),
            )
            for unit, firing, member in zip(self._units, self._stack.firings(), self._members, strict=True)
        )
        self._stack.close()
        return report

    def _begin(self, call: Call) -> Clock:
        """Return the clock of the pass; raise before its first step if a unit can never act."""
        sigmas = call.options.get("sample_sigmas", call.sigma[:1]).tolist()
        marks = {mark for unit in self._units for mark in _marks(unit)}
        clock = Clock(self._sigma_at, sigmas, marks)
        for number, unit in enumerate(self._units, start=1):
            if not fires_on(unit.schedule, clock.all()):
                _never(number, unit, clock)
        return clock

    def _added(self, call: Call, areas: tuple[Area | None, ...], onto: Effects, deltas: Deltas) -> Effects:
        """Return `onto` and what the units add, region by region: a step has one window."""
        regions = rows_by_area(areas, len(call.x))
        if len(regions) == 1:
            return self._added_in(call, areas[0], onto, deltas)
        parts = [
            (rows, self._added_in(call.rows(rows), area, part_of(onto, rows), deltas)) for area, rows in regions.items()
        ]
        return with_shifts(joined(parts), onto.shifts)

    def _added_in(self, call: Call, area: Area | None, onto: Effects, deltas: Deltas) -> Effects:
        for member in self._members:
            member.enter(call, self._blocks)
        assert self._clock is not None
        return self._stack(self._step(call, area, self._clock, deltas), onto)

    def _step(self, call: Call, area: Area | None, clock: Clock, deltas: Deltas) -> Step:
        sampling, x = self._model.model_sampling, call.x

        def evaluate(x: Tensor, rows: tuple[int, ...], points: Collection[Point]) -> Mapping[Point, Tensor]:
            return evaluate_alone(self._model_for(call), call, x, rows, points, self._blocks, deltas)

        dtype = self._model.manual_cast_dtype or self._model.get_dtype()
        context = call.cond.get("crossattn_controlnet", call.cond.get("c_crossattn"))
        label = call.cond.get("y")
        window = _window(call, area, self._canvas)
        frames = None if window is None else window.frames
        # The host makes a new tensor of the same prompt at each step; the ids of its prompts stay the same all run.
        prompts = (*call.options.get("uuids", ()), frames)
        return Step(
            x=sampling.calculate_input(call.sigma, x).to(dtype),
            timestep=sampling.timestep(call.sigma).float(),
            context=x.new_zeros(len(x), 1, 1) if context is None else context.to(x.device, dtype),
            cond=_cond_rows(call),
            progress=clock.at(float(call.sigma[0])),
            steps=clock.steps if clock.known else None,
            y=None if label is None else label.to(x.device, dtype),
            window=window,
            prompt=self._prompts.setdefault(prompts, object()) if call.options.get("uuids") else None,
            pictures=tuple(row % (len(x) // call.chunks) for row in range(len(x))),
            evaluate=evaluate,
            attend=lambda point, n, tokens: attend(self._model_for(call), point, n, tokens),
        )

    def _model_for(self, call: Call) -> Any:
        """Return the base model of the device that the call runs on, where the host shares a step among devices."""
        device = call.options.get("multigpu_thread_device")
        others = [] if device is None else self._model.current_patcher.get_additional_models_with_key("multigpu")
        return next((other.model for other in others if other.load_device == device), self._model)


class _RunHost:
    """The host as the core sees it: it has loaded every network before the run; we time them."""

    def __init__(self, vae: Any, model: Any) -> None:
        """Begin to count seconds. vae: of the host, or None; model: the host's base model."""
        self.seconds: Counter[int] = Counter()
        self._vae, self._model = vae, model

    @contextmanager
    def ready(self, model: ControlModel) -> Iterator[None]:
        begin = time.perf_counter()
        yield
        self.seconds[id(model)] += time.perf_counter() - begin  # pyright: ignore[reportArgumentType]

    def encode(self, picture: Tensor) -> Tensor:
        """Return latents as the base network receives them, by the VAE of the Apply node."""
        if self._vae is None:
            raise HostError("a control reads latents and needs a VAE: connect one to Apply Control Units")
        loaded = comfy.model_management.loaded_models(only_currently_used=True)
        latents = self._vae.encode(picture.movedim(1, -1)[..., :3])
        comfy.model_management.load_models_gpu(loaded)  # the VAE may have taken their room
        return self._model.process_latent_in(latents).to(picture.device)

    def follow(self, model: ControlModel) -> bool:
        """Let the model follow the base network's weights under the LoRAs and hooks of the moment."""
        return model.follow(base_weights(self._model))

    def check_interrupt(self) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()


def _marks(unit: ControlUnit) -> Iterator[float]:
    """Yield the places on the noise schedule that a unit names."""
    schedule = unit.schedule
    if schedule.basis is RangeBasis.NOISE:
        yield from (schedule.start, schedule.end, *(frame.at for frame in schedule.keyframes))


def _never(number: int, unit: ControlUnit, clock: Clock) -> None:
    """Raise ScheduleError for a unit that acts on no step of the pass, where nothing else can be meant.

    A range on the noise schedule may well lie outside an image-to-image pass, or the second of two passes that share
    their prompts; then it is said, and the pass runs.
    """
    schedule = unit.schedule
    said = f"unit {number} ({unit.model.name}) fires on 0 of {counted(clock.steps, 'step')}"
    where = f"its range is {schedule.start:g} to {schedule.end:g} ({schedule.basis.value})"
    if schedule.basis is RangeBasis.NOISE and not clock.whole:
        _log.warning("%s of this pass: %s, and the pass runs only a part of the noise schedule", said, where)
        return
    raise ScheduleError(f"{said}: {where}. Widen it, use more steps, or disable the unit")


def _counted(number: int, unit: ControlUnit, call: Call) -> ControlUnit:
    """Return the unit with one hint and mask for all, or for so many pictures in turn; others repeat or are left out.

    So does the host with hints of its own; it is said once.
    """
    window = _frame_window(call)
    pictures = len(call.x) // call.chunks if window is None else window.total_frames
    hints = None if unit.model.joins_hints else unit.hint
    for what, given in (("hints", hints), ("masks", unit.mask)):
        if given is not None and pictures % len(given):
            said = "they repeat" if len(given) < pictures else f"the first {pictures} count"
            name = unit.model.name
            _log.warning("unit %d (%s) has %d %s for %d pictures: %s", number, name, len(given), what, pictures, said)
    hint = unit.hint if hints is None else _in_turn(hints, pictures)
    mask = None if unit.mask is None else _in_turn(unit.mask, pictures)
    return unit if hint is unit.hint and mask is unit.mask else replace(unit, hint=hint, mask=mask)


def _in_turn(given: Tensor, pictures: int) -> Tensor:
    """Return [N, ...] as it is where N divides the number of pictures, else one for each picture."""
    if not pictures % len(given):
        return given
    return given[torch.arange(pictures, device=given.device) % len(given)]


def _window(call: Call, area: Area | None, canvas: Canvas) -> Window | None:
    frames = _frames(_frame_window(call))
    if area is not None:
        return Window(canvas=canvas.size, top=area[2], left=area[3], frames=frames)
    return None if frames is None else Window(canvas=(call.x.shape[-2], call.x.shape[-1]), frames=frames)


def _frame_window(call: Call) -> Any:
    """Return the host's context window over the pictures of a batch, if there is one."""
    window = call.options.get("context_window")
    return None if getattr(window, "dim", 0) else window


def _frames(window: Any) -> tuple[int, ...] | None:
    """Return the frames of the rows, as the window itself cuts them out: newer hosts put an anchor before them."""
    return None if window is None else tuple(window.get_tensor(torch.arange(window.total_frames)).tolist())


def _cond_rows(call: Call) -> tuple[bool, ...]:
    """Return which rows belong to positive prompts: the host marks whole chunks, with 0 for those."""
    per_chunk = len(call.x) // call.chunks
    return tuple(mark == 0 for mark in call.options["cond_or_uncond"] for _ in range(per_chunk))
