"""Further ways of a step that `gpu.py` measures: reused residuals, networks side by side, compiled, and offloaded."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from controlstack.core.control import ControlModel
from controlstack.core.host import PlainHost
from controlstack.core.reuse.said import OFF, Level, Reuse
from controlstack.core.stack import ControlStack
from controlstack.models.families.controlnet.model import ControlNetModel
from torch import nn

from .gpu_contest import COUNTS, STEPS, Contest
from .gpu_measuring import in_turns, peak_mib

LEVELS = {"exact": OFF, "light": Reuse(level=Level.LIGHT), "strong": Reuse(level=Level.STRONG)}
BLOCKS = ("ResBlock", "TransformerBlock", "ResnetBlock2D", "BasicTransformerBlock")  # ours, and diffusers'
RUNS = 3  # rounds of whole runs, at most
LARGE = COUNTS[-1]  # units that have to fit into a small card
TWELVE_GIB = 12 << 10  # in MiB


class AnySize(ControlNetModel):
    """A ControlNet of any size that is computed beside others; ours are beside each other where they are light."""

    @property
    def shape(self) -> Hashable:
        """Return what the networks of a contest have in common."""
        return self.network.config, self.pool, self.dtype


class Offloading(PlainHost):
    """A host that keeps control networks in main memory, but for the one that computes."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    @contextmanager
    def ready(self, model: ControlModel) -> Iterator[None]:
        """Bring a network to the device while the context is open."""
        model.network.to(self._device)
        try:
            yield
        finally:
            model.network.to("cpu")


def reused(contest: Contest, rounds: int) -> dict[str, float]:
    """Return what one unit adds to a whole run, as a share of the bare run: exactly, and with each level of reuse."""
    stacks = {name: ControlStack(contest.units(1, reuse=reuse)) for name, reuse in LEVELS.items()}

    def run(call: Callable[[int], object], _: int) -> None:
        for index in range(STEPS):
            call(index)

    calls = {"bare": contest.bare, **{name: partial(contest.under, stack) for name, stack in stacks.items()}}
    found = in_turns(contest.device, {name: partial(run, call) for name, call in calls.items()}, min(rounds, RUNS))
    return {"ms_bare_run": found.pop("bare"), **{f"added_run_{name}": share for name, share in found.items()}}


def beside(contest: Contest, rounds: int) -> dict[str, float]:
    """Return what several units add that are one call, their networks beside each other."""
    stacks = {count: ControlStack(contest.units(count, AnySize), beside=True) for count in COUNTS[1:]}
    calls = {"bare": contest.bare, **{f"{n}": partial(contest.under, stack) for n, stack in stacks.items()}}
    for call in calls.values():
        call(0)  # which stacks the weights
    found = in_turns(contest.device, calls, rounds)
    return {f"added_beside_{count}": found[str(count)] for count in COUNTS[1:]}


def compiled(contest: Contest, rounds: int) -> dict[str, float]:
    """Return what one unit adds where the blocks of its network and of the U-Net are compiled one by one."""
    for network in (contest.unet, contest.networks[0], contest.peers[0]):
        compile_blocks(network, "inductor" if contest.device.type == "cuda" else "eager")
    calls = {name: call for name, call in contest.calls().items() if name in ("bare", "ours_1", "diffusers_1")}
    for call in calls.values():
        call(0)  # which compiles
    found = in_turns(contest.device, calls, rounds)
    return {"ms_compiled_bare": found.pop("bare"), **{f"added_compiled_{name}": found[name] for name in found}}


def offloaded(contest: Contest, _: int) -> dict[str, float]:
    """Return all memory that a step of the most units takes, with their networks on the device and off it.

    The contest is of no use after it: the peers, which share the weights, are gone.
    """
    device, stack = contest.device, contest.stacks[LARGE]
    contest.peers.clear()
    stack.close()
    held = peak_mib(device, lambda: contest.ours(LARGE, 1), whole=True)
    contest.stacks.clear()
    for network in contest.networks:
        network.to("cpu")
    small = ControlStack(contest.units(LARGE), Offloading(device))
    peak = peak_mib(device, lambda: contest.under(small, 0), whole=True)
    name = f"{LARGE}_units"
    return {f"total_mib_{name}": held, f"offloaded_mib_{name}": peak, "fits_12_gib": float(peak <= TWELVE_GIB)}


def compile_blocks(network: Any, backend: str) -> None:
    """Compile the blocks of a network one by one, ours or diffusers', for the sizes that they see."""
    parts: list[nn.Module] = [each for each in network.modules() if type(each).__name__ in BLOCKS]
    for part in parts:
        part.compile(backend=backend, dynamic=False)
