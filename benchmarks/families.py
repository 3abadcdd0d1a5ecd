"""What families cost per step beside the best peer that runs here, as shares of the bare U-Net's step.

    python benchmarks/families.py [--rounds N] [--json FILE]

FLOPs are exact: torch counts them on the meta device at full size (SD 1.5 at 512 px, SDXL at 1024 px, batch 2, the
uncond and the cond row of one picture), and they are the same on every machine. `first` is a run's first step, `later`
any other one, in which hints, prompts and merged weights are kept. Rows of one picture are not looked at for being the
same, which saves a ControlNet of SD 1.x further 0.05 (`step_cost.py`).

Peers (`parts/family_cases.py`): diffusers' own classes; for Control-LoRA, which diffusers lacks, ComfyUI's formula
`W + up @ down` for every layer at every step, before a ControlNet; for CtrLoRA Advanced-ControlNet's network, which is
diffusers' ControlNet without a hint encoder on latents of the hint; for Uni-ControlNet the order of its authors. CPU
time is that of whole steps of U-Nets a fifth as wide with random weights, ours and the peer's in turns; the share is
the median over rounds; `--rounds 0` leaves it out.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from parts.counting import flops
from parts.family_cases import CASES, Case
from parts.family_sizes import Size, bare

NARROW, SMALL = 5, 4  # what widths and sides are divided by where time is measured


def counted() -> dict[str, float]:
    """Return the FLOPs that families add to a step, as shares of the bare U-Net's, by names of docs/performance.md."""
    size = Size("meta")
    bases = {xl: flops(bare(size, xl)) for xl in (False, True)}
    found: dict[str, float] = {}
    for name, (make, xl) in CASES.items():
        found |= {f"{name}_{what}": value / bases[xl] for what, value in _added(make(size), bases[xl]).items()}
    found["union_two_over_two_passes"] = found["union_two_later"] / (2 * found["union_one_later"])
    return found


def _added(case: Case, base: int) -> dict[str, int]:
    """Return the FLOPs of a first step, of a later one, and of the peer's, without the bare U-Net's."""
    base = base if case.with_base else 0
    found = {"first": flops(lambda: case.ours(0)) - base, "later": flops(lambda: case.ours(1)) - base}
    return found if case.theirs is None else found | {"peer": flops(case.theirs) - base}


def timed(rounds: int) -> Iterator[tuple[str, float]]:
    """Yield the CPU time of a step of ours as a share of the peer's, by the name of each family that has one."""
    size = Size("cpu", NARROW, SMALL)
    for name, (make, xl) in CASES.items():
        case = make(size)
        if case.theirs is not None:
            plain = None if case.with_base else bare(size, xl)
            yield f"{name}_time", statistics.median(_shares(case, plain, rounds))


def _shares(case: Case, plain: Callable[[], object] | None, rounds: int) -> list[float]:
    """Return the shares of rounds behind a first one. plain: a step of the U-Net, where the case has none in it."""
    _ = case.ours(0), case.theirs()
    found: list[float] = []
    for index in range(1, rounds + 1):
        between = 0.0 if plain is None else _seconds(plain)
        ours, theirs = _seconds(lambda index=index: case.ours(index)), _seconds(case.theirs)
        found.append((ours + between) / (theirs + between))
    return found


@torch.no_grad()
def _seconds(run: Callable[[], object]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def measure(rounds: int) -> dict[str, float]:
    """Return all numbers."""
    with torch.no_grad():
        return counted() | (dict(timed(rounds)) if rounds else {})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="of the CPU time; 0 leaves it out")
    parser.add_argument("--json", type=Path, help="write the numbers into this file")
    args = parser.parse_args()
    torch.set_num_threads(1)
    numbers = measure(args.rounds)
    for name, value in numbers.items():
        print(f"{name:30} {value:.3f}")
    if args.json:
        args.json.write_text(json.dumps(numbers, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
