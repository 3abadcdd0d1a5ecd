"""Control models of the host and of other packs as members of our stack, through their one public method.

Whatever a `get_control` computes (ControlNets for Flux, SD3 and Qwen, Control-LoRAs, subclasses nobody has heard of) it
computes over the whole run, at the unit's weight, since some bend it or weigh each block by another power of it. Range,
mode, mask and rows are then ours, the same for all.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import comfy.model_management
import torch
from torch import Tensor

from ....core.control import ControlModel, Prepared, Prompt
from ....core.errors import ControlError, IncompatibleModelError
from ....core.network.base import Base
from ....core.network.lists import to_residuals
from ....core.network.points import Block, Point, skip, stream
from ....core.network.rows import take_rows
from ....core.options import Option
from ....core.step import Step
from ....models.registry import outline
from ..union import tell_host

MOST_BLOCKS = 64  # of a network that a host could bring
PICTURE = 3  # channels of a hint; one behind them is a mask


@dataclass(slots=True, eq=False)
class Call:
    """The host's own arguments of one `get_control`."""

    x: Tensor
    sigma: Tensor
    cond: dict[str, Any]
    chunks: int
    options: dict[str, Any]

    def rows(self, rows: tuple[int, ...]) -> Call:
        """Return the call for these rows alone: whole chunks, or else each row is a chunk of its own."""
        total = len(self.x)
        if rows == tuple(range(total)):
            return self
        per_chunk = total // self.chunks
        whole = all(row % per_chunk == i % per_chunk for i, row in enumerate(rows)) and not len(rows) % per_chunk
        kept = [row // per_chunk for row in (rows[::per_chunk] if whole else rows)]
        options = dict(self.options)
        for key in ("cond_or_uncond", "uuids"):
            if key in options:
                options[key] = [options[key][chunk] for chunk in kept]
        cond = {key: _cut(value, total, rows) for key, value in self.cond.items()}
        return Call(take_rows(self.x, rows), take_rows(self.sigma, rows), cond, len(kept), options)


class ForeignModel(ControlModel):
    """A control of the host as the stack sees it. `enter` it before the stack evaluates a step."""

    def __init__(self, control: Any, *, name: str, hint_channels: int, strength: float = 1.0, vae: Any = None) -> None:
        """Wrap a copy of a control.

        hint_channels: of the picture, and one more where a mask of what is to be invented comes with it."""
        self.control = control.copy()
        self.control.set_previous_controlnet(None)
        self.strength = strength
        self.name, self.network, self._vae, self._hint = name, self.control, vae, None
        known = outline(_shapes(control))
        self.known = known is not None  # its blocks are, so that they can be weighed one by one
        self.base = Base() if known is None else known.base
        self.points = _any_points() if known is None else known.points
        self.soft_weights = (1.0,) * len(self.points) if known is None else known.soft_weights
        self.offers = () if known is None else known.offers
        self.hole = ControlModel.hole if known is None else known.hole
        self.hint_channels = hint_channels
        self.hint_scale = int(control.compression_ratio * (1 if vae is None else vae.spacial_compression_encode()))
        self._call: Call | None = None
        self._blocks: int | None = None
        self._network: Any = None  # of the base model that it runs beside

    def around(self, control: Any) -> ForeignModel:
        """Return the same around another control, such as its copy for another device."""
        given = {"name": self.name, "hint_channels": self.hint_channels, "strength": self.strength, "vae": self._vae}
        return ForeignModel(control, **given)

    def begin(self, model: Any, sigma_at: Callable[[float], float]) -> None:
        """Make the control ready for a run on the host's base model, from which some take weights or layers."""
        self._network = model.diffusion_model
        with self._telling():
            self.control.pre_run(model, sigma_at)

    def bind(self, options: Mapping[str, object]) -> ForeignModel:
        """Return this very model, which is told what a run shows it; its control is told the options that it has."""
        self.options = super().bind(options).options
        tell_host(self.control, self)
        return self

    def enter(self, call: Call, blocks: int | None) -> None:
        """Take the host's arguments of the step that comes, and the number of input blocks of its U-Net."""
        self._call, self._blocks = call, blocks

    def prepare(self, hint: Tensor) -> Prepared:
        return (hint,)  # encoding it is the control's affair, which keeps the result

    def __call__(
        self, step: Step, prepared: Prepared, prompt: Prompt, points: Collection[Point]
    ) -> Iterator[tuple[Point, Tensor]]:
        assert self._call is not None
        call = self._call if step.place is None else self._call.rows(step.place)
        if prepared[0] is not self._hint:
            self._hint = prepared[0]
            # A picture for each row of a chunk, laid out as the host lays its pictures out: convolutions round by it.
            hint = self._hint[: len(call.x) // call.chunks]
            picture = hint[:, :PICTURE].clamp(min=self.hole).contiguous(memory_format=torch.channels_last)
            kept = [1 - hint[:, PICTURE:]] if hint.shape[1] > PICTURE else []
            self.control.set_cond_hint(picture, self.strength, (0.0, 1.0), vae=self._vae, extra_concat=kept)
            self.control.cond_hint = None  # what it made of the hint before
        with self._telling():
            found = self.control.get_control(call.x, call.sigma, call.cond, call.chunks, call.options)
        if found is None:
            return
        for point, residual in to_residuals(found, self._blocks).tensors():
            self._check(residual)
            if point in points:
                yield point, residual

    @contextmanager
    def _telling(self) -> Iterator[None]:
        """Turn what a control raises into one sentence that names it and the base model."""
        try:
            yield
        except (ControlError, comfy.model_management.InterruptProcessingException, torch.OutOfMemoryError):
            raise
        except Exception as error:
            raise IncompatibleModelError(f"{self._pair()} ({error}): choose a control model for this one") from error

    def _check(self, residual: Tensor) -> None:
        """Raise IncompatibleModelError for what the base model cannot add: maps to tokens, or tokens to maps."""
        maps, width = self._blocks is not None, _width(self._network)
        if (residual.ndim == 4) != maps or (residual.ndim == 3 and width not in (None, residual.shape[-1])):
            shape = "x".join(map(str, residual.shape))
            raise IncompatibleModelError(
                f"{self._pair()}, which cannot add a residual of {shape}: choose a control model for this one"
            )

    def _pair(self) -> str:
        network = getattr(self.control, "control_model", None) or self.control
        base = type(self._network).__name__
        return f"'{self.name}' ({type(network).__name__}) does not work beside the loaded checkpoint ({base})"


def _width(network: Any) -> int | None:
    """Return the width of the stream of one of the host's transformers; None where it does not say."""
    found = (getattr(network, name, None) for name in ("hidden_size", "inner_dim", "dim"))
    return next((width for width in found if isinstance(width, int)), None)


def _cut(value: Any, total: int, rows: tuple[int, ...]) -> Any:
    if isinstance(value, Tensor) and value.ndim and len(value) == total:
        return take_rows(value, rows)
    return value


def offers_of(control: Any) -> tuple[Option, ...]:
    """Return what units may tell a control of the host; nothing where it is of no kind that is known here."""
    known = outline(_shapes(control))
    return () if known is None else known.offers


def points_of(control: Any) -> tuple[Point, ...] | None:
    """Return the points of a control of the host; None where it does not show what its blocks are."""
    known = outline(_shapes(control))
    return None if known is None else known.points


def _shapes(control: Any) -> dict[str, tuple[int, ...]]:
    """Return names and shapes of the network behind a control; nothing where it shows none."""
    networks = [getattr(patcher, "model", None) for patcher in control.get_models()]
    network = next((each for each in networks if isinstance(each, torch.nn.Module)), None)
    network = getattr(control, "t2i_model", network)
    weights = getattr(control, "control_weights", {}) if network is None else network.state_dict()
    return {name: tuple(each.shape) for name, each in weights.items()}


def _any_points() -> tuple[Point, ...]:
    numbers = range(MOST_BLOCKS)
    return (*map(stream, numbers), *(Point(Block.MIDDLE, i) for i in numbers), *map(skip, numbers))
