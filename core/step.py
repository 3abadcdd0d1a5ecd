"""One evaluation of the base network, as a control sees it (`Step`), and which part of the picture it shows."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .errors import HostError
from .network.points import Point
from .network.rows import Twins, take_rows
from .schedule import Progress

# (latents, rows, points) -> what stands at those points when the base network sees these latents, with the time and the
# prompts of these rows of the host's batch
Evaluate = Callable[[Tensor, tuple[int, ...], Collection[Point]], Mapping[Point, Tensor]]


# (point of a self-attention's output, x [B, N, C], context [B, M, C]) -> what it returns for these, [B, N, C]
Attend = Callable[[Point, Tensor, Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Window:
    """Which part of the whole picture, and which frames of a sequence, the rows of a step show."""

    canvas: tuple[int, int]  # height and width of the whole picture, in latent pixels
    top: int = 0
    left: int = 0
    frames: tuple[int, ...] | None = None  # the frame that each picture of the batch is


def no_second_evaluation(*_: object) -> Mapping[Point, Tensor]:
    """Raise HostError: what a host answers that cannot evaluate its base network a second time."""
    raise HostError("this program cannot evaluate its base network once more, as the control needs it: leave it out")


def no_attention(*_: object) -> Tensor:
    """Raise HostError: what a host answers that does not show its base network's attention."""
    raise HostError(
        "this program does not show the attention of its base network, as the control needs it: leave it out"
    )


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
    steps: int | None = None  # of the present pass of the sampler; None: unknown, and no unit reuses anything
    y: Tensor | None = None  # [B, A] vector condition (SDXL)
    window: Window | None = None  # None: the rows show the whole picture
    prompt: object | None = None  # stands for the context's values: the same object, the same values; None: `context`
    pictures: tuple[int, ...] | None = None  # B values: rows of one number should hold the same latents; None: unknown
    # Which rows share latents, time and hint: the stack tells the models. Asking waits for the device, once per step.
    twins: Callable[[], Twins | None] = lambda: None
    evaluate: Evaluate = no_second_evaluation  # the base network alone, without any effect
    attend: Attend = no_attention  # a self-attention of the base network on other values, without any effect
    place: tuple[int, ...] | None = None  # B values: the rows of the host's batch that these are; None: all, in order

    def again(self, x: Tensor, points: Collection[Point]) -> Mapping[Point, Tensor]:
        """Evaluate the base network once more, on other latents [B, C, h, w], and return what stands at `points`.

        Everything else (time, prompts, the further channels of an inpainting base) is the step's own. Costs one
        evaluation of the base network, to which nothing is added.
        """
        whole = torch.cat([x, self.x[:, x.shape[1] :]], dim=1)
        return self.evaluate(whole, self._place, points)

    @property
    def token(self) -> object:
        """Return the object that stands for the context's values: see `version_of`."""
        return self.context if self.prompt is None else self.prompt

    @property
    def _place(self) -> tuple[int, ...]:
        return tuple(range(len(self.cond))) if self.place is None else self.place

    def rows(self, rows: tuple[int, ...]) -> Step:
        """Return the step as seen by these rows alone, in this order, repeats allowed."""
        if rows == tuple(range(len(self.cond))):
            return self
        return replace(
            self,
            x=take_rows(self.x, rows),
            timestep=take_rows(self.timestep, rows),
            context=take_rows(self.context, rows),
            y=None if self.y is None else take_rows(self.y, rows),
            cond=tuple(self.cond[row] for row in rows),
            place=tuple(self._place[row] for row in rows),
            pictures=None if self.pictures is None else tuple(self.pictures[row] for row in rows),
        )


def version_of(token: object) -> int:
    """Return what changes when somebody writes into a tensor; 0 for other objects, which stand for one value."""
    return token._version if isinstance(token, Tensor) and not token.is_inference() else 0
