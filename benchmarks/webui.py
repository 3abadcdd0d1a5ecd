"""What units cost in AUTOMATIC1111's WebUI: CPU time per step, and how often models are loaded from disk.

    export WEBUI_PATH=... [WEBUI_PEER_PATH=...]
    PYTHONPATH=tests/hosts:tests/hosts/webui python benchmarks/webui.py [--rounds N] [--json FILE]

Two real WebUIs run beside each other on one thread each, one with ControlStack, one with sd-webui-controlnet if it is
there, with the same small checkpoint and control models. They take turns, and each request with units stands beside
one without. Each figure is the median over rounds of a ratio within a round, so that what else the machine does falls
on both. A step's time is the CPU time of the process between the ends of two successive evaluations of the U-Net, the
sampler's own part included.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any

import control_files
import numpy as np
import webui_host
from webui_host import Host

ROOT = Path(__file__).resolve().parents[1]
WIDTH, HEADS = 128, 8  # of the U-Net: four tenths of SD 1.5's width
SIZE, STEPS = 256, 8  # pixels, and steps of a request
CONTROL = "1, control mode"
CASES = ("1", "2", "3", CONTROL)  # how many units
RUNS = 10  # requests with three units, for the loads
FILES = ("first", "second", "third")

Round = dict[str, dict[str, tuple[float, float]]]  # host -> case -> seconds of a step without units and with them


def main() -> None:
    """Start the hosts, measure, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--width", type=int, default=WIDTH)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        hosts = start(stack, folder, args.width)
        found = {"rounds": [measure_round(hosts, number) for number in range(args.rounds)]}
        found["loads"] = {name: loads(host) for name, host in hosts.items()}
    print(table(found))
    if args.json:
        args.json.write_text(json.dumps(found, indent=1))


def start(stack: ExitStack, folder: Path, width: int) -> dict[str, Host]:
    """Start the WebUIs, with their models written, and return them by name."""
    path, peer = webui_host.find(), webui_host.find_peer()
    if path is None:
        sys.exit("there is no WebUI: set WEBUI_PATH to its folder")
    models = folder / "models"
    webui_host.make_world(path, models, width)
    for seed, name in enumerate(FILES):
        control_files.write_controlnet(models / "ControlNet" / f"{name}.safetensors", seed, HEADS, width)
    extensions = {"ours": ROOT} | ({"peer": peer} if peer else {})
    return {
        name: stack.enter_context(webui_host.started(path, folder / name, models, (extension,)))
        for name, extension in extensions.items()
    }


def measure_round(hosts: dict[str, Host], number: int) -> Round:
    """Return CPU seconds per step without and with units; the order changes from round to round."""
    names = sorted(hosts, reverse=bool(number % 2))
    found: Round = {name: {} for name in names}
    for case in CASES:
        for name in names:
            found[name][case] = bare, controlled = (seconds(hosts[name], "0"), seconds(hosts[name], case))
            print(f"round {number + 1}: {name}, {case}: {bare:.3f} s, {controlled:.3f} s", file=sys.stderr, flush=True)
    return found


def seconds(host: Host, case: str) -> float:
    """Return the fastest step of one request: all do the same, and whatever disturbs one makes it slower."""
    host.post("test/timed?on=true")
    settings = {"control_mode": "ControlNet is more important"} if case == CONTROL else {}
    host.draw(*units(int(case[0]), **settings), steps=STEPS, width=SIZE, height=SIZE, sampler_name="Euler")
    ends = host.get("test/times")["seconds"]
    return min(b - a for a, b in pairwise(ends))


def loads(host: Host) -> int:
    """Return how often a model was loaded in ten requests with three units, by a host that had none in memory."""
    host.post("test/timed?on=true")
    for file in (host.base.parent / "models" / "ControlNet").iterdir():
        file.touch()  # so that a file in memory is another one
    before = host.get("test/times")["loads"]
    for seed in range(RUNS):
        host.draw(*units(3), steps=1, width=64, height=64, seed=seed)
    return host.get("test/times")["loads"] - before


def units(count: int, **settings: Any) -> list[dict[str, Any]]:
    """Return so many units, each with a model of its own."""
    picture = webui_host.encode(np.random.default_rng(0).integers(0, 255, (SIZE, SIZE, 3), np.uint8))
    sent = {"enabled": True, "module": "none", "image": picture, "save_detected_map": False, **settings}
    return [{**sent, "model": name} for name in FILES[:count]]


def table(found: dict[str, Any]) -> str:
    """Return Markdown: a row for each number of units."""
    rounds: Sequence[Round] = found["rounds"]
    names = sorted(rounds[0])
    base = {name: statistics.median(bare for each in rounds for bare, _ in each[name].values()) for name in names}
    lines = [
        "| CPU time of a step over the one without units | " + " | ".join(names) + " |",
        "|---|" + "---|" * len(names),
        "| none | " + " | ".join(f"1 ({base[name]:.2f} s)" for name in names) + " |",
    ]
    for case in CASES:
        ratios = [statistics.median(each[name][case][1] / each[name][case][0] for each in rounds) for name in names]
        lines.append(f"| {case} | " + " | ".join(f"{ratio:.2f}" for ratio in ratios) + " |")
    lines.append(
        "| models loaded in 10 requests with 3 | " + " | ".join(str(found["loads"][each]) for each in names) + " |"
    )
    if "peer" in names:
        for case in CASES:
            shares = [added(each["ours"][case]) / added(each["peer"][case]) for each in rounds]
            spread = f"{min(shares):.2f} to {max(shares):.2f}"
            lines.append(f"| {case}: added time, ours over the peer's | {statistics.median(shares):.2f} ({spread}) | |")
    return "\n".join(lines)


def added(times: tuple[float, float]) -> float:
    """Return what units add to a step, as a share of it."""
    bare, controlled = times
    return controlled / bare - 1


if __name__ == "__main__":
    main()
