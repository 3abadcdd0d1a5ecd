"""Where a run stands, and which rows are cond: read from what the WebUI's denoiser announces before each evaluation.

The denoiser lays its batch out as all cond rows, then all uncond rows, and hands it to the U-Net in one or several
calls in that order (different prompt lengths, `batch_cond_uncond` off), sometimes without the uncond rows at its end.
So a cursor that starts anew with each announcement knows every row; where the picture is cut into tiles in between,
each tile has its own. Prompts are not touched: marking them, as sd-webui-controlnet does, breaks the WebUI's prompt
cache and, when a run fails, the pictures after it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable, Sequence
from typing import Any

from torch import Tensor

from .....core.schedule import Progress, RangeBasis

LAST_TIMESTEP = 999.0  # of the noise schedules of SD 1.x, SD 2.x and SDXL
HALVINGS, DIGITS = 40, 6  # of an interval until it is a number; decimals that sigmas in fp32 tell apart
GIVEN_STEPS = {"sigmas", "timesteps", "n"}  # a sampler that takes none of these chooses its steps itself


class Denoising:
    """One pass of a sampler."""

    def __init__(self) -> None:
        self._order: int | None = 1
        self._evaluations = 0
        self._steps, self._host_step = 1, 0
        self._rows, self._cond_rows = 0, 0
        self._first, self._end = 0, 0
        self._cursors: dict[Hashable, int] = {}
        self._first_noise: float | None = None

    def announce(self, rows: int, cond_rows: int, host_step: int, steps: int, sampler: Any = None) -> None:
        """Begin one evaluation of the denoiser.

        rows: of the whole batch; host_step: the WebUI's own counter, which lags one behind; sampler: the WebUI's.
        """
        if not self._evaluations:
            self._order = order_of(sampler)
        self._rows, self._cond_rows = rows, cond_rows
        self._first, self._end = 0, 0
        self._cursors.clear()
        self._host_step, self._steps = host_step, max(1, steps)
        self._evaluations += 1

    def expect(self, count: int) -> None:
        """Learn that the denoiser gives its next `count` rows to its network, which may cut them into tiles."""
        self._first, self._end = self._end, self._end + count
        self._cursors.clear()

    def take(self, count: int, part: Hashable = None) -> tuple[bool, ...]:
        """Return True for each cond row among the next `count` rows that the U-Net is given.

        part: stands for the part of the picture that they show; each part sees all rows of the network, in order.
        """
        if not self._rows:  # nobody announced anything: a sampler without guidance
            return (True,) * count
        start = self._cursors.get(part, self._first)
        if start + count > (self._end or self._rows):  # the same part again, or tiles of which nobody told
            start = self._first
        self._cursors[part] = start + count
        return tuple(row % self._rows < self._cond_rows for row in range(start, start + count))

    def flags(self, rows: Sequence[int]) -> tuple[bool, ...]:
        """Return True for each cond row among these, counted from the first of those that the network was given."""
        return tuple(self._first + row < self._cond_rows for row in rows)

    @property
    def steps(self) -> int | None:
        """Return how many steps the pass has; None for a sampler that chooses them itself, or announces nothing."""
        return self._steps if self._evaluations and self._order is not None else None

    def progress(self, noise: Callable[[], float]) -> Progress:
        """Return the progress in every basis; `noise` is called only if somebody reads it: it waits for the device."""
        lagging = min(1.0, self._host_step / self._steps)  # samplers that choose their steps count beyond them
        progress = _Lazy({RangeBasis.WEBUI: lagging}, noise)
        progress[RangeBasis.STEPS] = self._fraction(progress)
        return progress

    def _fraction(self, progress: Progress) -> float:
        """Return the fraction of steps that are done; where nobody knows how many there will be, of the noise.

        On the WebUI's uniform schedule both are the same number. Such samplers wait for the device at each step anyway.
        """
        if self._order is not None:
            return min(max(self._evaluations - 1, 0) // self._order, self._steps - 1) / self._steps
        behind = progress[RangeBasis.NOISE]
        if self._first_noise is None:
            self._first_noise = behind
        return max(0.0, (behind - self._first_noise) / (1 - self._first_noise)) if self._first_noise < 1 else 0.0


def noise_at(timestep: Tensor) -> float:
    """Return the progress along the noise schedule of a U-Net at timesteps [B] of one value; waits for the device."""
    return 1 - float(timestep.flatten()[0]) / LAST_TIMESTEP


def noise_at_sigma(sigma: Tensor, to_sigma: Callable[[float], float]) -> float:
    """Return the progress at which a noise schedule has the sigmas [B] of one value; waits for the device.

    to_sigma: progress in 0..1 -> sigma, never rising, which is what a range means in the program.
    """
    wanted, low, high = float(sigma.flatten()[0]), 0.0, 1.0
    if wanted >= to_sigma(low):
        return low
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if to_sigma(middle) > wanted else (low, middle)
    return round(high, DIGITS)


def pictures_of(cond: Sequence[bool], each: int) -> tuple[int, ...] | None:
    """Return a number for the picture that each row shows; None where nobody knows.

    Every picture has one uncond row, and the pictures come in turn. each: rows of a block; other blocks show other
    parts of the pictures.
    """
    count = sum(not positive for positive in cond[:each])
    return tuple(row - row % each + row % each % count for row in range(len(cond))) if count else None


def order_of(sampler: Any) -> int | None:
    """Return the U-Net evaluations of each step but the last one; None if the sampler chooses its steps itself."""
    function, config = getattr(sampler, "func", None), getattr(sampler, "config", None)
    if callable(function) and not GIVEN_STEPS & inspect.signature(function).parameters.keys():
        return None
    return 2 if config is not None and config.options.get("second_order") else 1


class _Lazy(dict[RangeBasis, float]):
    """A progress whose NOISE entry is computed when it is read."""

    def __init__(self, known: dict[RangeBasis, float], noise: Callable[[], float]) -> None:
        super().__init__(known)
        self._noise = noise

    def __missing__(self, basis: RangeBasis) -> float:
        self[basis] = self._noise()
        return self[basis]
