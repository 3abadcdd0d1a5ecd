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
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path

import torch
from controlstack.core.control import ControlModel, Prepared, Prompt
from controlstack.core.network.base import Base
from controlstack.core.network.points import MIDDLE, Point, skip
from controlstack.core.stack import ControlStack
from controlstack.core.step import Step
from controlstack.core.unit import ControlMode
from controlstack.training.recipes.copies import copy_of_encoder
from parts.counting import CountBytes, CountOperations, MetaModel, MetaUnit, ShapesOnly, flops
from parts.step_contest import COUNTS, LATENT, ROWS, STEPS, cpu_ratios, step
from torch import Tensor

LEVELS = ((320, 1), (320, 1), (320, 1), (320, 2), (640, 2), (640, 2), (640, 4), (1280, 4), (1280, 4)) + ((1280, 8),) * 4
FIRST_BLOCK = (1.0, *(0.0,) * 12)  # block weights with which a network stops behind its first block
MAPS = tuple((width, LATENT // scale) for width, scale in LEVELS)  # (channels, side) of SD 1.5's residuals


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


def warm(units: list[MetaUnit], context: Tensor, latent: int = LATENT) -> int:
    """Return FLOPs of a step after the first one."""
    stack = ControlStack(units)
    stack(step(context, 0, latent))
    return flops(lambda: stack(step(context, 1, latent)))


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
