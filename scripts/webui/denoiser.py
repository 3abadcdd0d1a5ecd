"""Where a run stands, and which rows are cond: read from what the WebUI's denoiser announces before each evaluation.

The denoiser lays its batch out as all cond rows, then all uncond rows, and hands it to the U-Net in one or several
calls in that order (different prompt lengths, `batch_cond_uncond` off), sometimes without the uncond rows at its end.
So a cursor that starts anew with each announcement knows every row; where the picture is cut into tiles in between,
each tile has its own. Prompts are not touched: marking them, as sd-webui-controlnet does, breaks the WebUI's prompt
cache and, when a run fails, the pictures after it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable

from ...core.schedule import Progress, RangeBasis


class Denoising:
    """One pass of a sampler."""

    def __init__(self, order: int = 1) -> None:
        """order: evaluations of the U-Net for each step but the last one."""
        self._order = order
        self._evaluations = 0
        self._steps, self._host_step = 1, 0
        self._rows, self._cond_rows = 0, 0
        self._first, self._end = 0, 0
        self._cursors: dict[Hashable, int] = {}

    def announce(self, rows: int, cond_rows: int, host_step: int, steps: int) -> None:
        """One evaluation of the denoiser begins.

        rows: of the whole batch; host_step: the WebUI's own counter, which lags one behind.
        """
        self._rows, self._cond_rows = rows, cond_rows
        self._first, self._end = 0, 0
        self._cursors.clear()
        self._host_step, self._steps = host_step, max(1, steps)
        self._evaluations += 1

    def hand(self, count: int) -> None:
        """The denoiser hands its next `count` rows to its network, which may cut them into tiles."""
        self._first, self._end = self._end, self._end + count
        self._cursors.clear()

    def take(self, count: int, part: Hashable = None) -> tuple[bool, ...]:
        """True for each cond row among the next `count` rows that the U-Net is given.

        part: stands for the part of the picture that they show. Each part sees all rows that were handed in, in order.
        """
        if not self._rows:  # nobody announced anything: a sampler without guidance
            return (True,) * count
        start = self._cursors.get(part, self._first)
        if start + count > (self._end or self._rows):  # the same part again, or tiles of which nobody told
            start = self._first
        self._cursors[part] = start + count
        return tuple(row % self._rows < self._cond_rows for row in range(start, start + count))

    def progress(self, noise: Callable[[], float]) -> Progress:
        """The progress in every basis; `noise` is asked only if somebody looks at it, for it waits for the device."""
        index = min(max(self._evaluations - 1, 0) // self._order, self._steps - 1)
        return _Lazy(
            {
                RangeBasis.STEPS: index / self._steps,
                RangeBasis.WEBUI: min(1.0, self._host_step / self._steps),  # adaptive samplers count beyond their steps
            },
            noise,
        )


class _Lazy(dict[RangeBasis, float]):
    """A progress whose NOISE entry is computed when it is read."""

    def __init__(self, known: dict[RangeBasis, float], noise: Callable[[], float]) -> None:
        super().__init__(known)
        self._noise = noise

    def __missing__(self, basis: RangeBasis) -> float:
        self[basis] = self._noise()
        return self[basis]
