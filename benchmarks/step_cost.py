"""What a unit costs per step over the bare U-Net, at full SD 1.5 size, 256 px, batch 2.

    python benchmarks/step_cost.py [--rounds N] [--json FILE]

FLOPs and the memory of residual maps are computed from shapes alone (meta device), so they are the same on every
machine. CPU time is measured on random weights: the bare U-Net, ours and the peer take turns in one process, on one
thread, in alternating order, and each ratio is the median over rounds of a ratio within a round. The peer is diffusers'
own way: its ControlNetModel or MultiControlNetModel on both halves of the batch, hint included, at every step, with the
very same weights in memory. `--rounds 0` leaves the CPU time out; otherwise 7 GB of memory are needed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import weakref
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from controlstack.core.control import ControlModel, Prepared, Prompt
from controlstack.core.network.base import Base
from controlstack.core.network.points import MIDDLE, Point, skip
from controlstack.core.network.rows import Twins
from controlstack.core.schedule import progress_at
from controlstack.core.stack import ControlStack
from controlstack.core.step import Step
from controlstack.core.unit import ControlMode, ControlUnit
from controlstack.models.families.controlnet.model import ControlNetModel
from controlstack.models.families.controlnet.network import ControlNet
from controlstack.models.naming import to_diffusers
from controlstack.pipelines.attached import arguments
from controlstack.training.recipes.copies import copy_of_encoder
from counting import ShapesOnly, flops
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

ROWS, LATENT, STEPS = 2, 32, 20
COUNTS = (1, 2, 3)  # units that are compared
SPREAD = 0.02  # of the random weights; small enough that no activation overflows
TOLERANCE = 1e-3  # ours against the peer, of the largest value: twelve blocks of fp32 in another order
LEVELS = ((320, 1), (320, 1), (320, 1), (320, 2), (640, 2), (640, 2), (640, 4), (1280, 4), (1280, 4)) + ((1280, 8),) * 4
FIRST_BLOCK = (1.0, *(0.0,) * 12)  # block weights with which a network stops behind its first block
MAPS = tuple((width, LATENT // scale) for width, scale in LEVELS)  # (channels, side) of SD 1.5's residuals


class MetaUnit(ControlUnit):
    """A unit on the meta device, where no value can be checked."""

    def __post_init__(self) -> None:
        return None


class MetaModel(ControlNetModel):
    """A ControlNet on the meta device, where no values can be compared: rows of one picture are the same there."""

    def __call__(
        self, step: Step, prepared: Prepared, prompt: Prompt, points: Collection[Point]
    ) -> Iterator[tuple[Point, Tensor]]:
        return super().__call__(replace(step, twins=lambda: Twins.of(step.pictures or ())), prepared, prompt, points)


class CountOperations(TorchDispatchMode):
    """Counts every tensor operation."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


class CountBytes(TorchDispatchMode):
    """Follows every tensor that is made, and knows the largest sum of bytes that were alive at once."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._alive: dict[int, tuple[int, int]] = {}  # storage -> (bytes, tensors that show it)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and not any(leaf is arg for arg in args):
                self._follow(leaf)
        return result

    def _follow(self, tensor: Tensor) -> None:
        key = tensor.untyped_storage()._cdata
        size, shown = self._alive.get(key, (tensor.untyped_storage().nbytes(), 0))
        self._alive[key] = (size, shown + 1)
        self.peak = max(self.peak, sum(size for size, _ in self._alive.values()))
        weakref.finalize(tensor, self._release, key)

    def _release(self, key: int) -> None:
        size, shown = self._alive.pop(key)
        if shown > 1:
            self._alive[key] = (size, shown - 1)


class Maps(ControlModel):
    """A control model that makes SD 1.5's residual maps and nothing else."""

    name, base = "maps", Base()
    points = (*(skip(i) for i in range(len(MAPS) - 1)), MIDDLE)
    soft_weights = (1.0,) * len(MAPS)

    def __init__(self) -> None:
        self.network = object()  # of its own: models on one network are one call

    def __call__(
        self, step: Step, prepared: Prepared, prompt: Prompt, points: Collection[Point]
    ) -> Iterator[tuple[Point, Tensor]]:
        for slot, (width, side) in zip(self.points, MAPS, strict=True):
            yield slot, torch.empty(len(step.cond), width, side, side, device="meta")


def step(context: Tensor, index: int = 0) -> Step:
    """Return one evaluation: the uncond row, then the cond row, of one picture."""
    x, time = torch.randn(1, 4, LATENT, LATENT).repeat(ROWS, 1, 1, 1), torch.ones(ROWS)
    progress = progress_at(index, STEPS)
    return Step(x=x, timestep=time, context=context, cond=(False, True), progress=progress, pictures=(0,) * ROWS)


def measure() -> dict[str, float]:
    """Return all numbers, by the names of docs/performance.md."""
    from diffusers import ControlNetModel as Theirs
    from diffusers import UNet2DConditionModel

    with torch.device("meta"), ShapesOnly():
        unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
        theirs = Theirs.from_unet(unet, load_weights_from_unet=False)
        networks = [copy_of_encoder(unet) for _ in range(3)]
        context, hint = torch.randn(ROWS, 77, 768), torch.rand(1, 3, 8 * LATENT, 8 * LATENT)
        bare = flops(lambda: unet(torch.randn(ROWS, 4, LATENT, LATENT), torch.ones(ROWS), context))
        units = [MetaUnit(model=MetaModel(net, name=str(k)), hint=hint) for k, net in enumerate(networks)]
        both = torch.cat([hint] * ROWS)
        one_set = ROWS * sum(width * side**2 for width, side in MAPS) * 4
        one_map = ROWS * MAPS[0][0] * MAPS[0][1] ** 2 * 4
        peer = flops(lambda: theirs(torch.randn(ROWS, 4, LATENT, LATENT), torch.ones(ROWS), context, both))
        alone = MetaUnit(model=units[0].model, hint=hint, mode=ControlMode.CONTROL)
        return {
            "overhead_1": warm(units[:1], context) / bare,
            "overhead_2": warm(units[:2], context) / bare,
            "overhead_3": warm(units, context) / bare,
            "overhead_cond_only": warm([alone], context) / bare,
            "peer_overhead_1": peer / bare,
            "peer_overhead_2": 2 * peer / bare,
            "peer_overhead_3": 3 * peer / bare,
            "idle_ops": idle(MetaUnit(model=units[0].model, hint=hint, weight=0.0), context),
            "hint_encodes": hint_encodes(replace(units[0], block_weights=FIRST_BLOCK), context),
            "set_bytes": one_set,
            **{f"maps_above_set_{n}": (peak_of_maps(n, hint, context) - one_set) / one_map for n in COUNTS},
            "peer_maps_above_set_3": (peer_peak_of_maps(3) - one_set) / one_map,
        }


def warm(units: list[MetaUnit], context: Tensor) -> int:
    """Return FLOPs of a step after the first one."""
    stack = ControlStack(units)
    stack(step(context))
    return flops(lambda: stack(step(context, 1)))


def idle(unit: MetaUnit, context: Tensor) -> int:
    """Return tensor operations of a step on which no unit acts."""
    stack, now = ControlStack([unit]), step(context)
    with CountOperations() as operations:
        stack(now)
    return operations.count


def hint_encodes(unit: MetaUnit, context: Tensor) -> int:
    """Return how often the hint encoder runs in a whole run."""
    calls: list[int] = []
    handle = unit.model.network.input_hint_block.register_forward_hook(lambda *_: calls.append(1))
    stack = ControlStack([unit])
    for index in range(STEPS):
        stack(step(context, index))
    handle.remove()
    return len(calls)


def peak_of_maps(count: int, hint: Tensor, context: Tensor) -> int:
    """Return most bytes of residual maps alive at once in a step of this many units, on different models."""
    stack = ControlStack([MetaUnit(model=Maps(), hint=hint) for _ in range(count)])
    stack(step(context))  # the hint is prepared
    now = step(context, 1)
    with CountBytes() as counter:
        residuals = stack(now)
    del residuals
    return counter.peak


def peer_peak_of_maps(count: int) -> int:
    """Return the same for diffusers' MultiControlNetModel: a set of the sums, one of the new maps, a new sum."""
    with CountBytes() as counter:
        total: list[Tensor] = []
        for _ in range(count):
            maps = [torch.empty(ROWS, width, side, side, device="meta") for width, side in MAPS]
            total = [before + now for before, now in zip(total, maps, strict=True)] if total else maps
    return counter.peak


class Contest:
    """The bare U-Net, ours and the peer, on one copy of random weights in memory, each as a call of one step."""

    def __init__(self) -> None:
        from diffusers import ControlNetModel as Theirs
        from diffusers import MultiControlNetModel, UNet2DConditionModel

        torch.manual_seed(0)
        with torch.device("meta"):
            self.unet: Any = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
            networks = [copy_of_encoder(self.unet) for _ in COUNTS]
            theirs = Theirs.from_unet(self.unet, load_weights_from_unet=False)
        _fill(self.unet)
        _fill(networks[0])
        state = networks[0].state_dict()
        theirs.load_state_dict(to_diffusers(state), assign=True)
        for network in networks[1:]:
            network.load_state_dict(state, assign=True)
        for part in (theirs, *networks):
            part.eval().requires_grad_(False)
        self.hint, context = torch.rand(1, 3, 8 * LATENT, 8 * LATENT), torch.randn(ROWS, 77, 768)
        self.steps = [step(context, index) for index in range(STEPS)]
        self.peers = {1: theirs, **{n: MultiControlNetModel([theirs] * n) for n in COUNTS[1:]}}
        self.stacks = {n: ControlStack(self._units(networks[:n])) for n in COUNTS}

    def _units(self, networks: list[ControlNet]) -> list[ControlUnit]:
        models = [ControlNetModel(network, name=str(k)) for k, network in enumerate(networks)]
        return [ControlUnit(model=model, hint=self.hint) for model in models]

    def calls(self) -> dict[str, Callable[[Step], Tensor]]:
        """Return the names of numbers, each with one step."""
        ours = {f"cpu_ratio_{n}": lambda now, n=n: self.ours(n, now) for n in COUNTS}
        theirs = {f"peer_cpu_ratio_{n}": lambda now, n=n: self.theirs(n, now) for n in COUNTS}
        return {"bare": self.bare, **ours, **theirs}

    def bare(self, now: Step) -> Tensor:
        return self.unet(now.x, now.timestep, now.context).sample

    def ours(self, count: int, now: Step) -> Tensor:
        more = arguments(self.unet, self.stacks[count](now), {})
        return self.unet(now.x, now.timestep, now.context, **more).sample

    def theirs(self, count: int, now: Step) -> Tensor:
        """Run a step as the loop of StableDiffusionControlNetPipeline does."""
        several, both = count > 1, torch.cat([self.hint] * ROWS)
        skips, middle = self.peers[count](
            now.x,
            now.timestep,
            encoder_hidden_states=now.context,
            controlnet_cond=[both] * count if several else both,
            conditioning_scale=[1.0] * count if several else 1.0,
            guess_mode=False,
            return_dict=False,
        )
        more = {"down_block_additional_residuals": skips, "mid_block_additional_residual": middle}
        return self.unet(now.x, now.timestep, now.context, **more).sample


def _fill(network: nn.Module) -> None:
    """Put random weights in place of shapes; the scales of the norms stay 1."""
    network.to_empty(device="cpu").eval().requires_grad_(False)
    for name, parameter in network.named_parameters():
        parameter.uniform_(-SPREAD, SPREAD)
        if parameter.ndim == 1 and name.endswith("weight"):
            parameter.fill_(1.0)


def seconds(call: Callable[[Step], object], now: Step) -> float:
    """Return CPU time of one step."""
    begin = time.process_time()
    call(now)
    return time.process_time() - begin


@torch.no_grad()
def cpu_ratios(rounds: int) -> dict[str, float]:
    """Return CPU time of a step over the bare U-Net's; the first step of each is not counted."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    contest = Contest()
    calls = contest.calls()
    first = {name: call(contest.steps[0]) for name, call in calls.items()}
    for count in COUNTS:
        ours, theirs = first[f"cpu_ratio_{count}"], first[f"peer_cpu_ratio_{count}"]
        assert (ours - theirs).abs().max() <= TOLERANCE * theirs.abs().max(), (
            "ours and the peer draw different pictures"
        )
        assert not theirs.equal(first["bare"])
    spent: dict[str, list[float]] = {name: [] for name in calls}
    for index in range(rounds):
        others = [name for name in calls if name != "bare"]
        order = ["bare", *(others if index % 2 == 0 else reversed(others))]
        times = {name: seconds(calls[name], contest.steps[1 + index % (STEPS - 1)]) for name in order}
        times["bare"] += seconds(contest.bare, contest.steps[0])  # at both ends of a round, so that a drift cancels
        for name, value in times.items():
            spent[name].append(value / 2 if name == "bare" else value)
    bare = spent.pop("bare")
    ratios = {name: [a / b for a, b in zip(times, bare, strict=True)] for name, times in spent.items()}
    medians = {name: statistics.median(values) for name, values in ratios.items()}
    return {**medians, "cpu_seconds_bare": statistics.median(bare), "cpu_rounds": rounds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9, help="of CPU time; 0: none")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    numbers = measure()
    if args.rounds:
        numbers |= cpu_ratios(args.rounds)
    for name, value in numbers.items():
        print(f"{name:<24}{value:.4f}" if isinstance(value, float) else f"{name:<24}{value}")
    if args.json:
        args.json.write_text(json.dumps(numbers, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
