"""What a unit that reuses its residuals adds to a run, over what the exact unit adds: FLOPs and CPU time."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import replace

import torch
from controlstack.core.reuse.said import Extent, Level, Reuse
from controlstack.core.schedule import progress_at
from controlstack.core.stack import ControlStack
from controlstack.core.step import Step
from controlstack.core.unit import ControlUnit
from controlstack.models.families.controlnet.model import ControlNetModel
from controlstack.models.families.controlnet.network import ControlNet
from controlstack.training.recipes.copies import copy_of_encoder
from torch import Tensor

from . import counting
from .counting import MetaUnit
from .random_weights import filled

STEPS = 20
LEVELS = {"light": Reuse(level=Level.LIGHT), "strong": Reuse(level=Level.STRONG)}
RUNS = (10, 20, 30)
ROWS, LATENT = 2, 32


def steps(count: int, context: Tensor) -> list[Step]:
    """Return the evaluations of a run: the uncond row, then the cond row, of one picture. x changes at each."""
    return [
        Step(
            x=torch.randn(ROWS, 4, LATENT, LATENT, device=context.device),
            timestep=torch.full((ROWS,), 999.0 * (1 - index / count), device=context.device),
            context=context,
            cond=(False, True),
            progress=progress_at(index, count, noise=index / count),
            steps=count,
        )
        for index in range(count)
    ]


def flops(unit: ControlUnit, run: Sequence[Step]) -> int:
    """Return what a unit computes in a run."""
    stack = ControlStack([unit])
    return counting.flops(lambda: [stack(step) for step in run])


def flops_costs(counts: Sequence[int] = RUNS) -> dict[int, dict[str, float]]:
    """Return FLOPs of each level over those of the exact unit, by the number of steps."""
    with torch.device("meta"):
        unit = MetaUnit(model=ControlNetModel(network(), name="meta"), hint=torch.rand(1, 3, 256, 256))
        runs = {count: steps(count, torch.randn(ROWS, 77, 768)) for count in counts}
        exact = {count: flops(unit, run) for count, run in runs.items()}
        return {
            count: {name: flops(replace(unit, reuse=reuse), run) / exact[count] for name, reuse in LEVELS.items()}
            for count, run in runs.items()
        }


def extent_flops(points: int | None = None) -> dict[Extent, float]:
    """Return FLOPs of a step by how much of it is computed, over those of a whole one: any but a run's first.

    points: how many the shallow ones are, if not those that the model says.
    """
    with torch.device("meta"):
        model, hint = ControlNetModel(network(), name="meta"), torch.rand(1, 3, 256, 256)
        model.shallow = model.shallow if points is None else model.points[:points]
        unit = MetaUnit(model=model, hint=hint, reuse=Reuse(steps=(0, 1, 2), shallow=frozenset({2})))
        stack, (first, *run) = ControlStack([unit]), steps(4, torch.randn(ROWS, 77, 768))
        stack(first)
        extents = (Extent.WHOLE, Extent.SHALLOW, Extent.NOTHING)
        found = {
            extent: counting.flops(lambda step=step: stack(step)) for extent, step in zip(extents, run, strict=True)
        }
        return {extent: each / found[Extent.WHOLE] for extent, each in found.items()}


def network() -> ControlNet:
    """Return a ControlNet for SD 1.5 in the shapes of its base."""
    from diffusers import UNet2DConditionModel

    return copy_of_encoder(UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8))


def time_costs(rounds: int, count: int = STEPS) -> dict[str, float]:
    """Return CPU time of each level over that of the exact unit: of whole runs, the levels in turn at each step."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    with torch.device("meta"):
        made = network()
    unit = ControlUnit(model=ControlNetModel(filled(made), name="random"), hint=torch.rand(1, 3, 256, 256))
    ratios: dict[str, list[float]] = {name: [] for name in LEVELS}
    for _ in range(rounds):
        spent = _one_round(unit, steps(count, torch.randn(ROWS, 77, 768)))
        for name, values in ratios.items():
            values.append(spent[name] / spent["off"])
    return {name: statistics.median(values) for name, values in ratios.items()}


def _one_round(unit: ControlUnit, run: Sequence[Step]) -> dict[str, float]:
    stacks = {"off": ControlStack([unit])}
    stacks |= {name: ControlStack([replace(unit, reuse=reuse)]) for name, reuse in LEVELS.items()}
    spent = dict.fromkeys(stacks, 0.0)
    for index, step in enumerate(run):
        for name in sorted(stacks, reverse=bool(index % 2)):
            begin = time.process_time()
            stacks[name](step)
            spent[name] += time.process_time() - begin
    return spent
