"""Where a run stands: the host's sigmas -> progress in every basis."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache

from ...core.schedule import Progress, RangeBasis

TOLERANCE = 1e-4  # relative; samplers compute with sigmas and come back a rounding away
HALVINGS = 50  # of 0..1: finer than a double needs


class Clock:
    """The time of one sampling pass.

    percent_to_sigma: the host's noise schedule, falling from percent 0 to 1. sigmas: of the pass, step i runs from
    sigmas[i] to sigmas[i + 1]. marks: places on the noise schedule that units name, so that a step which lies exactly
    on one is found there; rounding would put it beside.
    """

    def __init__(
        self, percent_to_sigma: Callable[[float], float], sigmas: Sequence[float], marks: Iterable[float] = ()
    ) -> None:
        self._sigma_at = percent_to_sigma
        self._sigmas = tuple(sigmas)
        self._marks = {float(percent_to_sigma(mark)): mark for mark in marks}
        self.at = lru_cache(maxsize=None)(self._at)

    @property
    def steps(self) -> int:
        return max(1, len(self._sigmas) - 1)

    @property
    def known(self) -> bool:
        """Return whether the sampler has said which steps there are."""
        return len(self._sigmas) > 1

    @property
    def whole(self) -> bool:
        """Return whether the pass runs the whole noise schedule: neither an image-to-image pass nor a part of one."""
        first, last = self.noise(self._sigmas[0]), self._sigmas[-1]
        return first <= 1 / self.steps and last <= self._sigma_at(1.0) + TOLERANCE

    def all(self) -> list[Progress]:
        """Return the progress of every step of the pass, at its beginning."""
        return [self.at(sigma) for sigma in self._sigmas[: self.steps]]

    def _at(self, sigma: float) -> Progress:
        """Return the progress of an evaluation at `sigma`.

        One between two steps, of a sampler that looks ahead, belongs to the earlier.
        """
        step = self._step(sigma)
        return {
            RangeBasis.STEPS: step / self.steps,
            RangeBasis.NOISE: self.noise(sigma),
            RangeBasis.WEBUI: max(step - 1, 0) / self.steps,
        }

    def _step(self, sigma: float) -> int:
        later = sum(1 for other in self._sigmas[1:] if other >= sigma * (1 - TOLERANCE))
        return min(later, self.steps - 1)

    def noise(self, sigma: float) -> float:
        """Return the percent at which the noise schedule falls to `sigma`."""
        if sigma in self._marks:
            return self._marks[sigma]
        low, high = 0.0, 1.0
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if self._sigma_at(middle) > sigma else (low, middle)
        return high
