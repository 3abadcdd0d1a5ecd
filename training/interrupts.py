"""Ctrl-C while training, and the word of a scheduler that the machine is taken away: both wait for the step's end."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

WAITING = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def interrupts_wait() -> Iterator[Callable[[], bool]]:
    """Inside, signals wait until they are asked for, so that no step is left half-done; a second one does not wait."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield lambda: False
        return
    seen: list[int] = []
    before = {each: signal.getsignal(each) for each in WAITING}

    def note(number: int, _frame: object) -> None:
        seen.append(number)
        restore()

    def restore() -> None:
        for each, handler in before.items():
            signal.signal(each, handler)

    for each in WAITING:
        signal.signal(each, note)
    try:
        yield lambda: bool(seen)
    finally:
        restore()
