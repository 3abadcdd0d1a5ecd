"""What a training shows and leaves: its progress, its loss curve, folders that are never half-written."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

WINDOW = 100  # steps over which the shown loss is averaged
SMOOTH = 10  # windows at least in a curve, so that a short training has one too
MARGIN, LINE = 30, (200, 80, 30)  # pixels, BGR


class Watch:
    """Collects the losses of a training and prints their running mean."""

    def __init__(self, count: int, done: int = 0) -> None:
        self.losses: list[float] = []
        self._count, self._done, self._start = count, done, time.monotonic()

    def add(self, loss: float) -> None:
        """Take the loss of one more step."""
        self.losses.append(loss)
        step = self._done + len(self.losses)
        if step % WINDOW == 0 or step == self._count:
            recent = self.losses[-WINDOW:]
            left = (time.monotonic() - self._start) / len(self.losses) * (self._count - step)
            print(f"step {step} of {self._count}: loss {sum(recent) / len(recent):.4f}, {left:.0f} s left", flush=True)


def watch(losses: Iterable[float], count: int) -> list[float]:
    """Run a training of `count` steps and show its progress."""
    seen = Watch(count)
    for loss in losses:
        seen.add(loss)
    return seen.losses


@contextmanager
def interrupts_wait() -> Iterator[Callable[[], bool]]:
    """Inside, Ctrl-C waits until it is asked for, so that no step is left half-done; a second one does not wait."""
    seen: list[int] = []

    def note(signal_number: int, _frame: object) -> None:
        seen.append(signal_number)
        signal.signal(signal.SIGINT, before)

    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield lambda: False
        return
    signal.signal(signal.SIGINT, note)
    try:
        yield lambda: bool(seen)
    finally:
        signal.signal(signal.SIGINT, before)


def replace_folder(folder: Path, save: Callable[[Path], object]) -> None:
    """Save beside the folder, then swap, so that nobody finds it half-written."""
    fresh = folder.with_suffix(".new")
    shutil.rmtree(fresh, ignore_errors=True)
    save(fresh)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(fresh, folder)  # noqa: PTH105 - Path.replace does not say that it is atomic


def write_curve(losses: Sequence[float], path: Path) -> None:
    """The running mean of the loss as a picture; the vertical axis is logarithmic, with both ends written down."""
    import cv2
    import numpy as np

    window = max(1, min(WINDOW, len(losses) // SMOOTH))
    values = np.log(np.convolve(losses, np.ones(window) / window, mode="valid"))
    height, width = 240, 480
    span = max(float(np.ptp(values)), 1e-6)
    x = np.linspace(MARGIN, width - MARGIN, len(values))
    y = (height - MARGIN) - (values - values.min()) / span * (height - 2 * MARGIN)
    canvas = np.full((height, width, 3), 255, np.uint8)
    if len(values) == 1:
        cv2.circle(canvas, (width // 2, height // 2), 2, LINE, -1)
    cv2.polylines(canvas, [np.stack([x, y], 1).astype(np.int32)], False, LINE, 1, cv2.LINE_AA)
    first, last = np.exp(values[[0, -1]])
    texts = {f"{np.exp(values.max()):.4f}": 20, f"{np.exp(values.min()):.4f}": height - 10}
    for text, row in {**texts, f"{len(losses)} steps, loss {first:.4f} to {last:.4f}": 21}.items():
        column = 150 if "steps" in text else 5
        cv2.putText(canvas, text, (column, row), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (0, 0, 0), 1, cv2.LINE_AA)
    cv2.imwrite(str(path), canvas)
