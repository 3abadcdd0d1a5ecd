"""Control models of the host and of other packs as members of our stack, through their one public method.

Whatever a `get_control` computes (ControlNets for Flux, SD3 and Qwen, Control-LoRAs, subclasses nobody has heard of) it
computes over the whole run, at the unit's weight, since some bend it or weigh each block by another power of it. Range,
mode, mask and rows are then ours, the same for all.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...core.base import Base
from ...core.control import ControlModel, Prepared, Prompt
from ...core.lists import to_residuals
from ...core.points import Block, Point, skip, stream
from ...core.rows import take_rows
from ...core.step import Step
from ...models.registry import outline

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
        self.hint_channels = hint_channels
        self.hint_scale = int(control.compression_ratio * (1 if vae is None else vae.spacial_compression_encode()))
        self._call: Call | None = None
        self._blocks: int | None = None

    def around(self, control: Any) -> ForeignModel:
        """Return the same around another control, such as its copy for another device."""
        given = {"name": self.name, "hint_channels": self.hint_channels, "strength": self.strength, "vae": self._vae}
        return ForeignModel(control, **given)

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
            picture = hint[:, :PICTURE].contiguous(memory_format=torch.channels_last)
            kept = [1 - hint[:, PICTURE:]] if hint.shape[1] > PICTURE else []
            self.control.set_cond_hint(picture, self.strength, (0.0, 1.0), vae=self._vae, extra_concat=kept)
            self.control.cond_hint = None  # what it made of the hint before
        found = self.control.get_control(call.x, call.sigma, call.cond, call.chunks, call.options)
        if found is None:
            return
        yield from (pair for pair in to_residuals(found, self._blocks).tensors() if pair[0] in points)


def _cut(value: Any, total: int, rows: tuple[int, ...]) -> Any:
    if isinstance(value, Tensor) and value.ndim and len(value) == total:
        return take_rows(value, rows)
    return value


def points_of(control: Any) -> tuple[Point, ...] | None:
    """Return the points of a control of the host; None where it does not show what its blocks are."""
    known = outline(_shapes(control))
    return None if known is None else known.points


def _shapes(control: Any) -> dict[str, tuple[int, ...]]:
    """Return names and shapes of the network behind a control; nothing where it shows none."""
    networks = [getattr(patcher, "model", None) for patcher in control.get_models()]
    network = next((each for each in networks if isinstance(each, torch.nn.Module)), None)
    network = getattr(control, "t2i_model", network)
    return {} if network is None else {name: tuple(each.shape) for name, each in network.state_dict().items()}


def _any_points() -> tuple[Point, ...]:
    numbers = range(MOST_BLOCKS)
    return (*map(stream, numbers), *(Point(Block.MIDDLE, i) for i in numbers), *map(skip, numbers))
