"""What reuse across steps saves, and what it costs in obedience.

    python benchmarks/reuse.py [--json FILE] [--plot FILE] [--scenes N] [--rounds N]
                               [--table] [--runs N ...] [--samplers NAME ...]

**Cost** is what a unit adds to a run, over what the exact unit adds. FLOPs come from shapes alone (SD 1.5 at full size,
256 px, meta device); CPU time from random weights of the same size, where the exact unit and each level take turns step
by step, on one thread. `--rounds 0` leaves time out; otherwise 2 GB of memory are needed.

**Loss** is measured on the tiny world without a prompt and without guidance, so that nothing but the units can tell
what to draw: the relative loss of what each control is for (canny: edge F1, depth: depth error, color: colour
accuracy) against the exact unit with the same seeds, the worst of the three. Gains count as negative losses. Its noise
is the standard error of that mean over the scenes: each scene's number differs from run to run, whatever is computed.

`light_cost`, `light_loss`, `strong_cost` and `strong_loss` are those of one unit in 20 steps of DDIM, which takes some
four minutes on an idle core. `--plot` adds the `curve`, further schedules of which each spreads so many computed steps
evenly, and takes three more. `--table` adds the `table`, for one to three units, 10 to 30 steps and three samplers:
another half an hour, or less with fewer `--runs`, `--samplers` or `--scenes`. Rows are printed as they are found.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import counting
import numpy as np
import torch
from controlstack.core.reuse.said import OFF, Level, Reuse, spread
from controlstack.core.schedule import progress_at
from controlstack.core.stack import ControlStack
from controlstack.core.step import Step
from controlstack.core.unit import ControlUnit
from controlstack.models.families.controlnet.model import ControlNetModel
from controlstack.models.families.controlnet.network import ControlNet
from controlstack.models.registry import load_control_model
from controlstack.pipelines.bases import load_base
from controlstack.pipelines.drawing import generate
from controlstack.pipelines.request import Request
from controlstack.pipelines.tiny_world import BASE, CONTROLS, SIDE
from controlstack.training.evaluation.evaluate import Trial, make_trial, score
from controlstack.training.recipes.copies import copy_of_encoder
from numpy.typing import NDArray
from torch import Tensor, nn

STEPS, SAMPLER = 20, "ddim"
LEVELS = {"light": Reuse(level=Level.LIGHT), "strong": Reuse(level=Level.STRONG)}
OBEDIENCE = {"canny": "edge_f1", "depth": "depth_error", "color": "colour_accuracy"}
FALLING = ("depth_error",)  # numbers that are the better the smaller they are
STACKS = {1: (("canny",), ("depth",), ("color",)), 2: (("canny", "color"),), 3: (("canny", "depth", "color"),)}
RUNS, SAMPLERS = (10, 20, 30), ("ddim", "unipc", "heun")
COMPUTED = (3, 4, 5, 6, 7, 10, 15)  # of the curve: how many of the steps are computed
ROWS, LATENT = 2, 32
Numbers = NDArray[np.float64]  # one for each scene
SPREAD = 0.02  # of random weights


class MetaUnit(ControlUnit):
    """A unit on the meta device, where no value can be checked."""

    def __post_init__(self) -> None:
        """Check nothing."""

    @property
    def acts(self) -> bool:
        """Act wherever the weight is not 0."""
        return bool(self.weight)


# Cost


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


def network() -> ControlNet:
    """Return a ControlNet for SD 1.5 in the shapes of its base."""
    from diffusers import UNet2DConditionModel

    return copy_of_encoder(UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8))


def filled(made: nn.Module) -> nn.Module:
    """Return a network with random weights in place of shapes; the scales of the norms stay 1."""
    made.to_empty(device="cpu").eval().requires_grad_(False)
    for name, parameter in made.named_parameters():
        parameter.uniform_(-SPREAD, SPREAD)
        if parameter.ndim == 1 and name.endswith("weight"):
            parameter.fill_(1.0)
    return made


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


# Loss


class Loss(NamedTuple):
    """A relative loss of obedience, and the standard error of it over the scenes."""

    value: float
    noise: float


class World:
    """The tiny world with some scenes, and what was measured on it."""

    def __init__(self, scenes: int) -> None:
        self.trial: Trial = make_trial(scenes)
        self._alone = [_one(self.trial, k) for k in range(scenes)]
        self._base = load_base(BASE)
        self._controls = {name: load_control_model(CONTROLS / f"{name}.safetensors") for name in OBEDIENCE}
        self._exact: dict[tuple[Any, ...], Mapping[str, Numbers]] = {}

    def loss(self, kinds: Sequence[str], reuse: Reuse, count: int, sampler: str) -> Loss:
        """Return the worst relative loss of obedience to any of the units."""
        key = (tuple(kinds), count, sampler)
        if key not in self._exact:
            self._exact[key] = self._scores(kinds, OFF, count, sampler)
        exact, found = self._exact[key], self._scores(kinds, reuse, count, sampler)
        names = [OBEDIENCE[kind] for kind in kinds]
        return max(_loss(name, exact[name], found[name]) for name in names)

    def _scores(self, kinds: Sequence[str], reuse: Reuse, count: int, sampler: str) -> Mapping[str, Numbers]:
        """Return the numbers of each scene."""
        units = [ControlUnit(model=self._controls[k], hint=_tensor(self.trial.hints[k]), reuse=reuse) for k in kinds]
        request = Request(steps=count, guidance=1.0, width=SIDE, height=SIDE, batch=self.trial.size, scheduler=sampler)
        images = generate(self._base, request, units).images
        found = [score(one, images[k : k + 1]) for k, one in enumerate(self._alone)]
        return {name: np.array([each[name] for each in found]) for name in found[0]}


def _loss(name: str, exact: Numbers, found: Numbers) -> Loss:
    """Return the loss of a number. exact, found: of each scene."""
    change, mean = found - exact, float(exact.mean())
    value, noise = float(change.mean()) / mean, float(change.std(ddof=1)) / len(change) ** 0.5 / mean
    return Loss(value if name in FALLING else -value, noise)


def _one(trial: Trial, k: int) -> Trial:
    """Return a scene as a trial of its own."""
    hints = {name: hint[k : k + 1] for name, hint in trial.hints.items()}
    return Trial(trial.scenes[k : k + 1], trial.pictures[k : k + 1], hints)


def _tensor(pictures: Any) -> Tensor:
    return torch.from_numpy(pictures.copy()).permute(0, 3, 1, 2).float() / 255


def worst(world: World, units: int, reuse: Reuse, count: int, sampler: str) -> Loss:
    """Return the worst loss over the stacks of so many units."""
    return max(world.loss(kinds, reuse, count, sampler) for kinds in STACKS[units])


def table(world: World, runs: Sequence[int], samplers: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield a row for each number of units, number of steps and sampler."""
    costs = flops_costs(runs)
    for units in STACKS:
        for count in runs:
            for sampler in samplers:
                found = {f"{name}_flops": costs[count][name] for name in LEVELS}
                for name, reuse in LEVELS.items():
                    found |= _named(name, worst(world, units, reuse, count, sampler))
                yield {"units": units, "steps": count, "sampler": sampler, **found}


def _named(name: str, loss: Loss) -> dict[str, float]:
    return {f"{name}_loss": loss.value, f"{name}_noise": loss.noise}


def as_markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the table for the docs: a line for units and steps, columns for samplers and levels, in %."""
    samplers = list(dict.fromkeys(row["sampler"] for row in rows))
    columns = [(sampler, level) for sampler in samplers for level in LEVELS]
    lines = ["| units | steps |" + "".join(f" {sampler}, `{level}` |" for sampler, level in columns)]
    lines.append("|---" * (2 + len(columns)) + "|")
    found = {(row["units"], row["steps"], row["sampler"]): row for row in rows}
    for units, count in dict.fromkeys((row["units"], row["steps"]) for row in rows):
        cells = (_cell(found[units, count, sampler], level) for sampler, level in columns)
        lines.append(f"| {units} | {count} |" + "".join(f" {cell} |" for cell in cells))
    return "\n".join(lines)


def _cell(row: Mapping[str, Any], level: str) -> str:
    return f"{100 * row[f'{level}_loss'] + 0.0:.2f} ± {100 * row[f'{level}_noise']:.2f}"


def curve(world: World) -> Iterator[dict[str, float]]:
    """Yield cost in steps and loss of schedules that spread their computed steps evenly."""
    for count in COMPUTED:
        loss = worst(world, 1, Reuse(steps=spread(count, STEPS)), STEPS, SAMPLER)
        yield {"computed": count, "cost": count / STEPS, "loss": loss.value}


def measure(scenes: int, rounds: int, *, drawn: bool = False) -> dict[str, Any]:
    """Return the numbers of one unit. drawn: with the curve."""
    world, costs = World(scenes), flops_costs((STEPS,))[STEPS]
    times = time_costs(rounds) if rounds else {}
    found: dict[str, Any] = {"scenes": scenes, "rounds": rounds}
    for name, reuse in LEVELS.items():
        found[f"{name}_flops"] = costs[name]
        found[f"{name}_cost"] = times.get(name, costs[name])
        found |= _named(name, worst(world, 1, reuse, STEPS, SAMPLER))
    if drawn:
        found["curve"] = list(curve(world))
    return found


# The picture

WIDTH, HEIGHT, LEFT, BELOW = 560, 320, 64, 48  # of the picture in pixels


def plot(found: Mapping[str, Any]) -> str:
    """Return the curve as SVG: cost from 0 to 1 to the right, loss in percent upwards, the levels with their names."""
    points = [(each["cost"], each["loss"]) for each in found["curve"]]
    levels = [(name, found[f"{name}_flops"], found[f"{name}_loss"]) for name in LEVELS]
    losses = [0.0, *(loss for _, loss in points), *(loss for *_, loss in levels)]
    low, high = min(losses) - 0.002, max(losses) + 0.002

    def place(cost: float, loss: float) -> tuple[float, float]:
        return LEFT + cost * (WIDTH - LEFT - 16), 16 + (high - loss) / (high - low) * (HEIGHT - 16 - BELOW)

    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*each) for each in sorted(points)))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        'font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<polyline points="{line}" fill="none" stroke="#4477aa" stroke-width="2"/>',
    ]
    for cost in (0.0, 0.25, 0.5, 0.75, 1.0):
        x, y = place(cost, low)
        parts.append(f'<text x="{x:.1f}" y="{y + 18:.1f}" text-anchor="middle">{cost:g}</text>')
    for loss in (low, 0.0, high):
        x, y = place(0, loss)
        right = place(1, loss)[0]
        parts.append(f'<line x1="{x:.1f}" y1="{y:.1f}" x2="{right:.1f}" y2="{y:.1f}" stroke="#cccccc"/>')
        parts.append(f'<text x="{x - 6:.1f}" y="{y + 4:.1f}" text-anchor="end">{100 * loss:.1f} %</text>')
    for name, cost, loss in levels:
        x, y = place(cost, loss)
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="#cc3311"/>')
        parts.append(f'<text x="{x + 8:.1f}" y="{y - 6:.1f}">{name}</text>')
    caption = "FLOPs that the unit adds, over those of the exact unit; upwards the loss of obedience"
    parts += [f'<text x="{WIDTH / 2}" y="{HEIGHT - 8}" text-anchor="middle">{caption}</text>', "</svg>"]
    return "\n".join(parts) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=8, help="of the tiny world")
    parser.add_argument("--rounds", type=int, default=3, help="of CPU time; 0: none")
    parser.add_argument("--plot", type=Path, help="write the curve as SVG here")
    parser.add_argument("--table", action="store_true", help="with the table")
    parser.add_argument("--runs", type=int, nargs="+", default=RUNS, help="numbers of steps in the table")
    parser.add_argument("--samplers", nargs="+", default=SAMPLERS, help="in the table")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    found = measure(args.scenes, args.rounds, drawn=args.plot is not None)
    for name, value in found.items():
        print(*([name, *value] if isinstance(value, list) else [f"{name:<16}{value:.4f}"]), sep="\n  ", flush=True)
    if args.plot:
        args.plot.write_text(plot(found), encoding="utf-8")
    if args.table:
        found["table"] = []
        for row in table(World(args.scenes), args.runs, args.samplers):
            found["table"].append(row)
            print(row, flush=True)
        print(as_markdown(found["table"]))
    if args.json:
        args.json.write_text(json.dumps(found, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
