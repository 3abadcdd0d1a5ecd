"""What a user says about one control (`ControlUnit`), what a host says about one step (`Step`), and what a control
model promises (`ControlModel`)."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Protocol

import torch
from torch import Tensor

from .base import Base
from .errors import HintError, UnitError
from .resize import ResizeMode
from .rows import Twins, take_rows
from .schedule import Progress, Schedule


class ControlMode(Enum):
    """Whose word counts more, as in sd-webui-controlnet."""

    BALANCED = "balanced"
    PROMPT = "prompt"  # "my prompt is more important": shallow blocks are softened
    CONTROL = "control"  # "the control is more important": softened, and the cond rows alone


class Place(Enum):
    """Where a residual enters the base network."""

    INPUT = "input"  # added to the encoder stream after input block i (T2I-Adapter)
    MIDDLE = "middle"  # added after the middle block
    OUTPUT = "output"  # added to the skip of input block i, where the decoder takes it (ControlNet)
    CONTEXT = "context"  # tokens appended to the prompt (T2I style adapter)


@dataclass(frozen=True, slots=True)
class Slot:
    """One place of injection: `index` is the input block's number, 0 for the middle and the context."""

    place: Place
    index: int = 0


@dataclass(frozen=True, slots=True)
class Window:
    """Which part of the whole picture, and which frames of a sequence, the rows of a step show."""

    canvas: tuple[int, int]  # height and width of the whole picture, in latent pixels
    top: int = 0
    left: int = 0
    frames: tuple[int, ...] | None = None  # the frame that each picture of the batch is


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Step:
    """One evaluation of the base network, as a control sees it.

    Row r shows picture r mod (number of pictures): hosts lay the uncond and the cond rows out as whole blocks.
    `cond` lives on the host side, as Python values: reading it from a device would stall the queue at every step.
    """

    x: Tensor  # [B, C, h, w] latents as the network receives them (already scaled)
    timestep: Tensor  # [B]
    context: Tensor  # [B, T, D]
    cond: tuple[bool, ...]  # B values, True for the rows of the positive prompt
    progress: Progress
    y: Tensor | None = None  # [B, A] vector condition (SDXL)
    window: Window | None = None  # None: the rows show the whole picture
    prompt: object | None = None  # stands for the context's values: the same object, the same values; None: `context`
    pictures: tuple[int, ...] | None = None  # B values: rows of one number should hold the same latents; None: unknown
    # Which rows share latents, time and hint: the stack tells the models. Asking waits for the device, once per step.
    twins: Callable[[], Twins | None] = lambda: None

    def rows(self, rows: tuple[int, ...]) -> Step:
        """The step as seen by these rows alone, in this order, repeats allowed."""
        if rows == tuple(range(len(self.cond))):
            return self
        return replace(
            self,
            x=take_rows(self.x, rows),
            timestep=take_rows(self.timestep, rows),
            context=take_rows(self.context, rows),
            y=None if self.y is None else take_rows(self.y, rows),
            cond=tuple(self.cond[row] for row in rows),
            pictures=None if self.pictures is None else tuple(self.pictures[row] for row in rows),
        )


Prepared = tuple[Tensor, ...]  # what a hint became; each [N, ...]
Prompt = tuple[Tensor, ...]  # what a context became; each [B, ...]


class ControlModel(Protocol):
    """A control network, stateless: all that a run can reuse is handed back to it by the stack."""

    @property
    def name(self) -> str: ...

    @property
    def base(self) -> Base: ...

    @property
    def slots(self) -> tuple[Slot, ...]:
        """Where it injects, in the order in which it computes; block weights follow this order."""
        ...

    @property
    def soft_weights(self) -> tuple[float, ...]:
        """One factor per slot for the modes PROMPT and CONTROL."""
        ...

    @property
    def hint_channels(self) -> int: ...

    @property
    def hint_scale(self) -> int | None:
        """Hint pixels per latent pixel; None: the hint is no picture and is handed over as it is."""
        ...

    @property
    def cond_only(self) -> bool:
        """True for models that act on the cond rows in every mode."""
        ...

    def prepare(self, hint: Tensor) -> Prepared:
        """What does not depend on the step: hint [N, 3, scale * h, scale * w] -> tensors [N, ...]."""
        ...

    def encode(self, context: Tensor) -> Prompt:
        """What depends on the prompt alone: context [B, T, D] -> tensors [B, ...]."""
        ...

    def __call__(
        self, step: Step, prepared: Prepared, prompt: Prompt, slots: Collection[Slot]
    ) -> Iterator[tuple[Slot, Tensor]]:
        """Yield the residual of each wanted slot, in order, as soon as it is known, and stop after the last one.

        `prepared` tensors have 1 or B rows. A residual is [B, C, h', w'] or, where it is the same for all rows,
        [1, C, h', w']; it may be a cached tensor, so nobody changes it in place.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ControlUnit:
    """What the user said about one control: a value."""

    model: ControlModel
    hint: Tensor  # [N, C, H, W] RGB in [0, 1]; N is 1, the number of pictures, or the number of frames
    weight: float = 1.0
    schedule: Schedule = field(default_factory=Schedule)
    mode: ControlMode = ControlMode.BALANCED
    resize: ResizeMode = ResizeMode.CROP
    mask: Tensor | None = None  # [N, 1, H, W], 1 = full effect
    block_weights: tuple[float, ...] | None = None  # one per slot of the model; they replace the mode's factors

    def __post_init__(self) -> None:
        if not math.isfinite(self.weight):
            raise UnitError(f"the unit with '{self.model.name}' has the weight {self.weight}, expected a finite number")
        self._check_hint()
        self._check_mask()
        self._check_block_weights()

    def _check_hint(self) -> None:
        name, channels = self.model.name, self.model.hint_channels
        if self.model.hint_scale is None:
            if self.hint.ndim != 3 or self.hint.shape[-1] != channels:
                raise HintError(f"'{name}' reads an embedding [N, T, {channels}], got {list(self.hint.shape)}")
        elif self.hint.ndim != 4 or self.hint.shape[1] not in {3, channels} or 0 in self.hint.shape:
            raise HintError(f"'{name}' reads a hint [N, {channels}, H, W], got {list(self.hint.shape)}")
        if not torch.isfinite(self.hint).all():
            raise HintError(f"the hint for '{name}' holds NaN or infinite values: check the preprocessor that made it")

    def _check_mask(self) -> None:
        mask = self.mask
        if mask is None:
            return
        if mask.ndim != 4 or mask.shape[1] != 1 or 0 in mask.shape:
            raise HintError(f"the mask of '{self.model.name}' is {list(mask.shape)}, expected [N, 1, H, W]")
        if not torch.isfinite(mask).all():
            raise HintError(f"the mask of '{self.model.name}' holds NaN or infinite values")

    def _check_block_weights(self) -> None:
        weights, slots = self.block_weights, self.model.slots
        if weights is None:
            return
        if len(weights) != len(slots):
            raise UnitError(f"'{self.model.name}' has {len(slots)} blocks, got {len(weights)} block weights")
        if not all(map(math.isfinite, weights)):
            raise UnitError(f"the block weights {weights} of '{self.model.name}' are not all finite numbers")

    def scales(self) -> dict[Slot, float]:
        """The factor of each slot on which the unit acts at all, before its schedule.

        Balanced: the weight. Otherwise the model's soft weights, or the block weights, times the weight.
        """
        factors = self.block_weights
        if factors is None:
            balanced = self.mode is ControlMode.BALANCED
            factors = (1.0,) * len(self.model.slots) if balanced else self.model.soft_weights
        scales = {slot: self.weight * factor for slot, factor in zip(self.model.slots, factors, strict=True)}
        return {slot: scale for slot, scale in scales.items() if scale}
