"""How `gpu.py` measures a step: its time, its waits for the device, its memory; and how much time is left for all."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from statistics import median

import torch

SYNC = "called a synchronizing"  # in torch's warning
MIB = 1 << 20
Work = Callable[[], object]


class Budget:
    """The seconds that a whole run may take; what does not begin in time is left out."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds
        self.left_out: list[str] = []

    def allows(self, name: str, seconds: float) -> bool:
        """Return whether a measurement of so many seconds may begin; where not, it is noted as left out."""
        if time.monotonic() + seconds <= self._end:
            return True
        self.left_out.append(name)
        return False


def synchronisations(device: torch.device, work: Work) -> int:
    """Count how often a step makes the host wait for the device, as torch reports it; 0 on a CPU."""
    if device.type != "cuda":
        return 0
    torch.cuda.synchronize()
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            work()
        finally:
            torch.cuda.set_sync_debug_mode(before)
    return sum(SYNC in str(each.message) for each in said)


def milliseconds(device: torch.device, work: Work) -> float:
    """Return the time of a step or a run, by events of the device, or by the clock of the CPU."""
    if device.type != "cuda":
        begin = time.process_time()
        work()
        return 1000 * (time.process_time() - begin)
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    begin.record()
    work()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end)


def peak_mib(device: torch.device, work: Work, *, whole: bool = False) -> float:
    """Return the most memory that a step needs above what is held before it, in MiB; whole: with what is held."""
    if device.type != "cuda":
        return 0.0
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = 0 if whole else torch.cuda.memory_allocated()
    work()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / MIB


def in_turns(device: torch.device, calls: Mapping[str, Callable[[int], object]], rounds: int) -> dict[str, float]:
    """Return the median milliseconds of `bare`, and what each other call adds to it, as a share.

    They take turns, in alternating order; a share is the median over the rounds of a share within a round.
    """
    spent: dict[str, list[float]] = {name: [] for name in calls}
    for index in range(rounds):
        for name in list(calls) if index % 2 == 0 else list(reversed(calls)):
            spent[name].append(milliseconds(device, partial(calls[name], 3 + index)))
    bare = spent.pop("bare")
    added = {name: median(a / b for a, b in zip(times, bare, strict=True)) - 1 for name, times in spent.items()}
    return {"bare": median(bare), **added}
