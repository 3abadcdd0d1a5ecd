"""Bars on a terminal, and now and then a line where nobody looks, as in a log file."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

Item = TypeVar("Item")

FEW = 10  # the first steps are all told
OFTEN, SELDOM = 10, 100  # later every tenth, then every hundredth


def bar(items: Sequence[Item], what: str) -> Iterable[Item]:
    """Yield the items, counted as they pass."""
    from tqdm import tqdm

    return tqdm(items, unit=f" {what}", disable=not sys.stderr.isatty())


class Steps:
    """The steps of a training, with loss and learning rate from the first one on, and the time left after a few."""

    def __init__(self, total: int, done: int, shown: Any, clock: Callable[[], float] = time.monotonic) -> None:
        """shown: tqdm's bar, which tells the time by itself, or None for lines. clock: seconds."""
        self._total, self._done, self._bar = total, done, shown
        self._clock = clock
        self._since: tuple[int, float] | None = None  # the step from which time is measured, and when it was done

    def show(self, loss: float, rate: float | None = None) -> None:
        """Tell of one more step: the mean of the latest losses, and the learning rate where it is known."""
        self._done += 1
        if self._bar is not None:
            self._bar.set_postfix_str(
                f"loss {loss:.4f}" + ("" if rate is None else f", rate {rate:.2e}"), refresh=False
            )
            self._bar.update()
        elif is_told(self._done, self._total):
            said = "" if rate is None else f", learning rate {rate:.2e}"
            print(f"step {self._done} of {self._total}: loss {loss:.4f}{said}{self._left()}", flush=True)

    def _left(self) -> str:
        """Return how long the rest takes as steps have taken so far, in words; the first told step begins the time."""
        now = self._clock()
        if self._since is None:
            self._since = self._done, now
        first, begun = self._since
        if self._done == first or self._done == self._total:
            return ""
        return f", {duration((now - begun) / (self._done - first) * (self._total - self._done))} left"


def duration(seconds: float) -> str:
    """Return a time as people say it: 40 s, 12 min, 3 h 20 min."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def is_told(step: int, total: int) -> bool:
    """Return whether a step has a line in a log."""
    every = 1 if step <= FEW else OFTEN if step <= SELDOM else SELDOM
    return step % every == 0 or step == total


@contextmanager
def steps_bar(total: int, done: int = 0, *, speaks: bool = True) -> Iterator[Steps]:
    """Show the steps of a training: a bar on a terminal, lines elsewhere, nothing unless this process speaks."""
    from tqdm import tqdm

    if speaks and not sys.stderr.isatty():
        yield Steps(total, done, None)
        return
    with tqdm(total=total, initial=done, unit=" steps", disable=not speaks) as shown:
        yield Steps(total, done, shown)
