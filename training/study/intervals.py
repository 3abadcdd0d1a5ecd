"""Intervals of shares and of means, at 95 %."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

NORMAL = 1.959963984540054  # of the normal distribution, at 97.5 %
LEVEL = (2.5, 97.5)  # percent
DRAWS = 2000  # of the bootstrap


def wilson(successes: int, count: int) -> tuple[float, float]:
    """Return the score interval of a share (Wilson 1927; advised for all sizes by Brown, Cai and DasGupta 2001).

    (p + z^2 / 2n +- z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n); 0 to 1 where nothing was counted.
    """
    if not count:
        return 0.0, 1.0
    share, square = successes / count, NORMAL**2
    middle = share + square / (2 * count)
    half = NORMAL * (share * (1 - share) / count + square / (4 * count**2)) ** 0.5
    low, high = ((middle + sign * half) / (1 + square / count) for sign in (-1, 1))
    return max(0.0, low), min(1.0, high)


def bootstrap(values: Sequence[float], groups: Sequence[str], seed: int = 0) -> tuple[float, float]:
    """Return the percentile interval of a mean (Efron and Tibshirani 1993, chapter 13).

    Whole groups are drawn again, such as all answers of a person, since those are not independent of each other.
    """
    names = sorted(set(groups))
    sums = {name: [0.0, 0] for name in names}
    for value, group in zip(values, groups, strict=True):
        sums[group][0] += value
        sums[group][1] += 1
    totals, counts = np.array([sums[name] for name in names]).T
    picks = np.random.default_rng(seed).integers(0, len(names), (DRAWS, len(names)))
    means = totals[picks].sum(axis=1) / counts[picks].sum(axis=1)
    low, high = np.percentile(means, LEVEL)
    return float(low), float(high)
