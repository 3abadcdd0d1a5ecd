"""How CPU time and memory grow with units, pictures, side, frames and tiles, ours beside the peers, all in one run.

    export COMFYUI_PATH=...
    PYTHONPATH=tests/hosts:tests/hosts/comfyui python benchmarks/growth.py [--peer FOLDER] [--rounds N] [--most N]
                                                       [--axes NAME ...] [--json FILE] [--plot FILE] [--alone]

A U-Net and ControlNets a fifth as wide as SD 1.5's, random weights, fp32, one thread, cond and uncond row of each
picture. In this process: the bare U-Net, ours, diffusers' MultiControlNetModel. In one ComfyUI: runs without control,
of our nodes, of the host's own and of Advanced-ControlNet (`--peer`). All take turns, in alternating order.

`time` is what units add to a step over the bare step of the same program at the same size, by the least time of some
rounds; in ComfyUI to a run of some steps, with whatever the host does around them. `memory` is by how many MiB a step's
(in ComfyUI a run's) highest memory exceeds that of the bare one, in processes of their own that give freed memory back
at once, which costs time. Weights are not counted, they lie in memory before.
`exponent` is the slope of log(added time) over log(value): 1 is proportion. `--alone` leaves ComfyUI out.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import growth_inside as inside
import torch

AXES = {
    "units": (1, 2, 3, 5, 10),
    "pictures": (1, 4, 8, 16),
    "side": (128, 256, 512),
    "frames": (1, 4, 16),
    "tiles": (1, 4, 16),
}
SMALLEST = {"units": 1, "pictures": 1, "side": 128, "frames": 1, "tiles": 1}  # of what does not grow
STEPS = 2  # whose time is measured together
COLOURS = {
    "ours": "#cc3311",
    "diffusers": "#4477aa",
    "ours, ComfyUI": "#ee7733",
    "host": "#228833",
    "advanced": "#888888",
}
BARE = {"ours": "none", "diffusers": "none", "ours, ComfyUI": "none, ComfyUI", "host": "none, ComfyUI",
        "advanced": "none, ComfyUI"}  # fmt: skip
Numbers = dict[str, float]  # by program
Meter = tuple[Callable[[], float], Callable[[], float]]  # seconds of a step, MiB


class Programs:
    """What can be measured here: in this process, and in a ComfyUI if there is one."""

    def __init__(self, most: int, host: Any = None, *, advanced: bool = False) -> None:
        """most: units. advanced: the host has Advanced-ControlNet."""
        self._networks, self._host = inside.Networks(most), host
        self._theirs = ("host", "advanced") if advanced else ("host",)

    def meters(self, sizes: Mapping[str, int]) -> dict[str, Meter]:
        """Return how each program is measured at these sizes; answers are compared before."""
        run = inside.Run(self._networks, **sizes)
        inside.check_same(run)
        found: dict[str, Meter] = {
            name: (lambda call=call: inside.seconds(call, STEPS), lambda call=call: inside.mebibytes(call))
            for name, call in run.programs().items()
        }
        return found | ({} if self._host is None else self._outside(sizes))

    def _outside(self, sizes: Mapping[str, int]) -> dict[str, Meter]:
        import growth_comfyui

        run = growth_comfyui.Run(self._host, **sizes)
        names = {"none, ComfyUI": "none", "ours, ComfyUI": "ours", **dict(zip(self._theirs, self._theirs, strict=True))}
        return {
            name: (lambda each=each: run.seconds(each, STEPS), lambda each=each: run.mebibytes(each))
            for name, each in names.items()
        }


def sizes(axes: Sequence[str], most: float = math.inf) -> Iterator[tuple[str, int, dict[str, int]]]:
    """Yield each axis and value with the sizes that they mean. most: as many pixels as so many smallest pictures."""
    for axis in axes:
        for value in AXES[axis]:
            size = {**SMALLEST, axis: value}
            across = size["side"] / SMALLEST["side"]
            if size["pictures"] * size["frames"] * size["tiles"] * across**2 <= most:
                yield axis, value, size


Size = tuple[str, int, dict[str, int]]  # axis, value, what they mean


@torch.no_grad()
def times(programs: Programs, rounds: int, wanted: Iterable[Size]) -> Iterator[dict[str, Any]]:
    """Yield a row of times for each size; the programs take turns. What axes share is measured once."""
    known: dict[tuple[int, ...], dict[str, Numbers]] = {}
    for axis, value, size in wanted:
        key = tuple(size.values())
        if key not in known:
            known[key] = _times(programs.meters(size), rounds)
        yield {"axis": axis, "value": value, **known[key]}


def _times(meters: Mapping[str, Meter], rounds: int) -> dict[str, Numbers]:
    orders = (list(meters) if turn % 2 else list(reversed(meters)) for turn in range(rounds))
    found = [{name: meters[name][0]() for name in order} for order in orders]
    least = {name: min(each[name] for each in found) for name in meters}
    return {
        "seconds": least,
        "time": {name: least[name] / least[bare] - 1 for name, bare in BARE.items() if name in meters},
    }


@torch.no_grad()
def memories(programs: Programs, wanted: Iterable[Size]) -> Iterator[Numbers]:
    """Yield the MiB that programs add to the bare run, for each size."""
    known: dict[tuple[int, ...], Numbers] = {}
    for _, _, size in wanted:
        key = tuple(size.values())
        if key not in known:
            known[key] = {name: mebibytes() for name, (_, mebibytes) in programs.meters(size).items()}
        yield {name: known[key][name] - known[key][bare] for name, bare in BARE.items() if name in known[key]}


def exponents(rows: Sequence[Mapping[str, Any]]) -> dict[str, Numbers]:
    """Return for each axis and program how the time that units add grows; of the bare steps, how theirs does."""
    found: dict[str, Numbers] = {}
    for axis in dict.fromkeys(row["axis"] for row in rows):
        own = [row for row in rows if row["axis"] == axis]
        values = [row["value"] for row in own]
        added = {
            name: [row["seconds"][name] - (row["seconds"][BARE[name]] if name in BARE else 0) for row in own]
            for name in own[0]["seconds"]
        }
        found[axis] = {name: slope(values, series) for name, series in added.items()}
    return found


def slope(values: Sequence[float], series: Sequence[float]) -> float:
    """Return the slope of the straight line through logarithms, by least squares; NaN where there is none."""
    if len(values) < 2 or min(series) <= 0:
        return math.nan
    return statistics.linear_regression([math.log(each) for each in values], [math.log(each) for each in series]).slope


def as_markdown(rows: Sequence[Mapping[str, Any]], exponent: Mapping[str, Numbers]) -> str:
    """Return a table: a line for each value, columns for what each program adds in time and in MiB."""
    names = [name for name in BARE if name in rows[0]["time"]]
    lines = ["| | | " + " | ".join(f"{name}: time | MiB" for name in names) + " |", "|---" * (2 + 2 * len(names)) + "|"]
    for axis, each in exponent.items():
        for row in (row for row in rows if row["axis"] == axis):
            cells = (f"{row['time'][name]:.2f} | {row['memory'][name]:.0f}" for name in names)
            lines.append(f"| {axis} | {row['value']} | " + " | ".join(cells) + " |")
        lines.append(f"| {axis} | exponent | " + " | ".join(f"{each[name]:.2f} |" for name in names) + " |")
    return "\n".join(lines)


WIDTH, HEIGHT, EDGE = 300, 240, 44  # of a panel, and what is around its axes, in pixels


def plot(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return SVG: a panel for each axis with a line for each program, time added over the bare step upwards."""
    axes = list(dict.fromkeys(row["axis"] for row in rows))
    panels = [
        f'<g transform="translate({number * WIDTH},0)">{_panel(axis, [row for row in rows if row["axis"] == axis])}</g>'
        for number, axis in enumerate(axes)
    ]
    names = [name for name in BARE if name in rows[0]["time"]]
    legend = [
        f'<text x="{EDGE + 120 * k}" y="{HEIGHT + 16}" fill="{COLOURS[name]}">{name}</text>'
        for k, name in enumerate(names)
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH * len(axes)} {HEIGHT + 28}" '
        'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>'
        f"{''.join(panels)}{''.join(legend)}</svg>\n"
    )


def _panel(axis: str, rows: Sequence[Mapping[str, Any]]) -> str:
    most = max(max(row["time"].values()) for row in rows)
    right, low = math.log(rows[-1]["value"]), math.log(rows[0]["value"])

    def place(value: float, share: float) -> tuple[float, float]:
        across = (math.log(value) - low) / (right - low or 1)
        return EDGE + across * (WIDTH - EDGE - 16), HEIGHT - EDGE - max(share, 0) / most * (HEIGHT - EDGE - 24)

    parts = [
        f'<text x="{WIDTH / 2}" y="{HEIGHT - 8}" text-anchor="middle">{axis}: time added over the bare step</text>'
    ]
    for name in rows[0]["time"]:
        line = " ".join("{:.1f},{:.1f}".format(*place(row["value"], row["time"][name])) for row in rows)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{COLOURS[name]}" stroke-width="2"/>')
    for row in rows:
        x, y = place(row["value"], 0)
        parts.append(f'<text x="{x:.1f}" y="{y + 16:.1f}" text-anchor="middle">{row["value"]}</text>')
    for share in (0, most):
        x, y = place(rows[0]["value"], share)
        parts.append(f'<text x="{x - 6:.1f}" y="{y + 4:.1f}" text-anchor="end">{share:.2f}</text>')
    return "".join(parts)


@contextmanager
def programs(peer: Path | None, *, alone: bool) -> Iterator[Programs]:
    """Start what is measured. peer: folder of Advanced-ControlNet. alone: without ComfyUI."""
    with ExitStack() as stack:
        host, most = None, max(AXES["units"])
        if not alone:
            import growth_comfyui

            host = stack.enter_context(growth_comfyui.started(most, peer))
        yield Programs(most, host, advanced=peer is not None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--axes", nargs="+", choices=AXES, default=list(AXES))
    parser.add_argument("--most", type=float, default=math.inf, help="leave out more pixels than so many pictures have")
    parser.add_argument("--peer", type=Path, help="folder of Advanced-ControlNet")
    parser.add_argument("--alone", action="store_true", help="without ComfyUI")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path, help="write the curves as SVG here")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    rows: list[dict[str, Any]] = []
    with programs(args.peer, alone=args.alone) as here:
        for row in times(here, args.rounds, sizes(args.axes, args.most)):
            rows.append(row)
            print(json.dumps(row), flush=True)
    inside.give_back_memory()
    with programs(args.peer, alone=args.alone) as here:
        for row, added in zip(rows, memories(here, sizes(args.axes, args.most)), strict=True):
            row["memory"] = added
            print(json.dumps(added), flush=True)
    found = exponents(rows)
    print(as_markdown(rows, found))
    if args.plot:
        args.plot.write_text(plot(rows), encoding="utf-8")
    if args.json:
        args.json.write_text(json.dumps({"rows": rows, "exponents": found}, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
