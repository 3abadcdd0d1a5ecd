"""How units act on the base network of a program: what the two ways have in common.

`hooked.Hooked` puts hooks on the U-Net (AUTOMATIC1111's WebUI), `patched.Patched` joins the patcher to which the U-Net
belongs (Forge and its relatives). Either makes a `Call` of each evaluation, and asks `Answers` for its effects.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from .....core.errors import IncompatibleModelError
from .....core.network.effects import Effects
from .....core.step import Attend, Evaluate
from .....core.unit import ControlUnit
from .kinds import base_of
from .tiles import Tiles


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Call:
    """One evaluation of the base network, as the program is about to do it."""

    x: Tensor  # [B, C, h, w] latents as the network receives them
    timestep: Tensor  # [B]
    noise: Callable[[], float]  # progress along the base model's noise schedule: 0 is pure noise, 1 is none
    context: Tensor  # [B, T, D]
    y: Tensor | None  # [B, A] vector condition (SDXL)
    evaluate: Evaluate  # the network alone, without any effect
    attend: Attend  # one of its self-attentions, likewise
    tiles: Tiles | None = None  # knows which parts of the picture others let it draw
    # For each equal part of the rows, or of those of each tile, whether it is cond; None: the denoiser's order tells.
    parts: tuple[bool, ...] | None = None
    onto: Effects | None = None  # what other controls add; the units' sum begins with it


class Answers(Protocol):
    """What the units of a request say; `request.evaluation.Evaluations` is it."""

    @property
    def units(self) -> Sequence[ControlUnit]:
        """Return the units of the pass that is sampled now."""
        ...

    @property
    def size(self) -> tuple[int, int]:
        """Return height and width of that pass in latent pixels."""
        ...

    @property
    def finishes(self) -> bool:
        """Return whether units change what the network answers in that pass."""
        ...

    def prepare(self, *, answers: bool) -> None:
        """Encode the hints that are latents, and (answers) the pictures of which answers are to keep something."""
        ...

    def expect(self, rows: int) -> None:
        """Learn how many rows the denoiser hands to its network next."""
        ...

    def effects(self, call: Call) -> Effects:
        """Return what the units add in this evaluation."""
        ...

    def finish(self, x: Tensor, timestep: Tensor, output: Tensor) -> Tensor:
        """Return the network's answer [B, C, h, w] to `x` as the units want it."""
        ...

    def restore_clean(self, clean: Tensor) -> Tensor:
        """Return what the network sees in the noise, [B, C, h, w], as the units want it."""
        ...

    def warn(self, text: str, /) -> None:
        """Tell the user something."""
        ...


class Attachment(ABC):
    """The units of one request on the base network while it is sampled.

    The calls come in this order: `begin`, then for each pass `begin_pass` (which older programs leave out) and
    `begin_evaluation` before each call of the denoiser, `end` whatever has happened.
    """

    def __init__(self, network: Callable[[], Any], answers: Answers, tiles: Tiles | None) -> None:
        """network: returns the U-Net that computes now. tiles: where others say which parts they draw."""
        self.tiles = tiles
        self._network, self._answers = network, answers
        self._unet: Any = None  # on which the units act
        self._exits = ExitStack()  # as long as they act on it

    @abstractmethod
    def begin(self) -> None:
        """Begin to sample a request."""

    @abstractmethod
    def begin_pass(self) -> None:
        """Begin to sample one pass; some programs announce the same one twice."""

    def begin_evaluation(self, network: nn.Module) -> None:
        """Look whether a refiner took over; `network` is what the denoiser is about to call, around the U-Net."""
        if self._unet is not None and self._network() is not self._unet:
            self._follow()

    def end(self) -> None:
        """Leave no trace; calling it again does nothing."""
        self._exits.close()
        self._unet = None

    def _follow(self) -> None:
        """Act on the U-Net that computes now. One that takes over is left alone if a model does not fit it."""
        unet = self._network()
        first, self._unet = self._unet is None, unet
        self._exits.close()
        try:
            for unit in () if first else self._answers.units:  # those of the first were compared when they were loaded
                unit.model.check_base(base_of(unet))
            self._enter(unet)
        except IncompatibleModelError as error:
            if first:
                raise
            self._answers.warn(f"from here on without control: {error}")

    @abstractmethod
    def _enter(self, unet: Any) -> None:
        """Act on `unet` for as long as `_exits` lasts. IncompatibleModelError for changes to weights that it lacks."""
