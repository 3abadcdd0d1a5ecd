"""What reuse across steps saves, and what it costs in obedience.

    python benchmarks/reuse.py [--json FILE] [--plot FILE] [--scenes N] [--rounds N]
                               [--blocks] [--regions] [--table] [--runs N ...] [--samplers NAME ...]

**Cost** is what a unit adds to a run, over what the exact unit adds. FLOPs come from shapes alone (SD 1.5 at full size,
256 px, meta device); CPU time from random weights of the same size, where the exact unit and each level take turns step
by step, on one thread. `--rounds 0` leaves time out; otherwise 2 GB of memory are needed.

**Loss** is measured on the tiny world without a prompt and without guidance, so that nothing but the units can tell
what to draw: the relative loss of what each control is for (canny: edge F1, depth: depth error, color: colour
accuracy) against the exact unit with the same seeds, the worst of the three. Gains count as negative losses. Its noise
is the standard error of that mean over the scenes: each scene's number differs from run to run, whatever is computed.

`light_cost`, `light_loss`, `strong_cost` and `strong_loss` are those of one unit in 20 steps of DDIM, which takes some
four minutes on an idle core. `--plot` adds the `curve`, further schedules of which each spreads so many computed steps
evenly, and takes three more. `--blocks` adds `blocks`: such schedules beside those of which every second computed step
stops behind the shallow blocks, with the change of the pictures, which is far less noisy. `--regions` adds `regions`:
units that are computed where their mask acts alone. `--table` adds the `table`, for one to three units, 10 to 30 steps
and three samplers: another half an hour, or less with fewer `--runs`, `--samplers` or `--scenes`. Rows are printed as
they are found.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from controlstack.core.reuse.said import Reuse, spread
from parts import reuse_region
from parts.reuse_cost import LEVELS, RUNS, STEPS, extent_flops, flops_costs, time_costs
from parts.reuse_loss import STACKS, Loss, World, worst

SAMPLER = "ddim"
SAMPLERS = ("ddim", "unipc", "heun")
COMPUTED = (3, 4, 5, 6, 7, 10, 15)  # of the curve: how many of the steps are computed
SIZES = {"full size": 3, "half size": 6, "a quarter": 9}  # points that a shallow step computes
SCHEMES = [(count, every, "half size") for count in (6, 8, 10, 12) for every in (1, 2)]  # computed, which are whole
SCHEMES += [(8, 2, "full size"), (8, 2, "a quarter"), (8, 4, "half size")]


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


def blocks(world: World) -> Iterator[dict[str, Any]]:
    """Yield cost, loss and change of each control, for schedules of whole steps and with shallow ones among them."""
    for count, every, size in SCHEMES:
        flops = extent_flops(SIZES[size])
        steps = spread(count, STEPS)
        reuse = Reuse(steps=steps, shallow=frozenset(steps) - frozenset(steps[::every]))
        found: dict[str, Any] = {"computed": count, "whole_every": every, "size": size}
        found["cost"] = sum(flops[reuse.extent(index, STEPS)] for index in range(STEPS)) / STEPS
        for kinds in STACKS[1]:
            loss, change = world.loss_and_change(kinds, reuse, STEPS, SAMPLER, SIZES[size])
            found[kinds[0]] = {**loss._asdict(), "change": change.value, "change_noise": change.noise}
        yield found


def blocks_as_markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the comparison for the docs, in %."""
    kinds = [kinds[0] for kinds in STACKS[1]]
    lines = ["| computed of 20 | cost |" + "".join(f" {kind}: change | loss |" for kind in kinds)]
    lines.append("|---" * (2 + 2 * len(kinds)) + "|")
    for row in rows:
        cells = (f" {_percent(row[k], 'change')} | {_percent(row[k], 'value')} |" for k in kinds)
        whole = "all whole" if row["whole_every"] == 1 else f"1 of {row['whole_every']} whole, else to {row['size']}"
        lines.append(f"| {row['computed']}, {whole} | {row['cost']:.3f} |" + "".join(cells))
    return "\n".join(lines)


def _percent(found: Mapping[str, float], name: str) -> str:
    noise = found["noise" if name == "value" else f"{name}_noise"]
    return f"{100 * found[name] + 0.0:.2f} ± {100 * noise:.2f}"


def measure(world: World, rounds: int, *, drawn: bool = False) -> dict[str, Any]:
    """Return the numbers of one unit. drawn: with the curve."""
    costs = flops_costs((STEPS,))[STEPS]
    times = time_costs(rounds) if rounds else {}
    found: dict[str, Any] = {"scenes": world.trial.size, "rounds": rounds}
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
    parser.add_argument("--blocks", action="store_true", help="with whole steps beside shallow ones")
    parser.add_argument("--regions", action="store_true", help="with units that are computed under their mask alone")
    parser.add_argument("--table", action="store_true", help="with the table")
    parser.add_argument("--runs", type=int, nargs="+", default=RUNS, help="numbers of steps in the table")
    parser.add_argument("--samplers", nargs="+", default=SAMPLERS, help="in the table")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    world = World(args.scenes)
    found = measure(world, args.rounds, drawn=args.plot is not None)
    for name, value in found.items():
        print(*([name, *value] if isinstance(value, list) else [f"{name:<16}{value:.4f}"]), sep="\n  ", flush=True)
    if args.plot:
        args.plot.write_text(plot(found), encoding="utf-8")
    if args.blocks:
        found["blocks"] = list(blocks(world))
        print(blocks_as_markdown(found["blocks"]), flush=True)
    if args.regions:
        found["regions"] = list(reuse_region.regions(world, STEPS, SAMPLER))
        print(reuse_region.as_markdown(found["regions"]), flush=True)
    if args.table:
        found["table"] = []
        for row in table(world, args.runs, args.samplers):
            found["table"].append(row)
            print(row, flush=True)
        print(as_markdown(found["table"]))
    if args.json:
        args.json.write_text(json.dumps(found, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
