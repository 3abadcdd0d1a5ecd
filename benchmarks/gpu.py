"""What units cost on a GPU: latency, host synchronisations and memory of a step, against diffusers in the same process.

    python benchmarks/gpu.py [--rounds N] [--seconds N] [--json FILE] [--device cpu --tiny]

Full-size U-Nets and ControlNets of random weights (nothing is downloaded): SD 1.5 at 512 px and SDXL at 1024 px, batch
2 (uncond and cond row of a picture), fp16 and bf16, one to three units on different networks. First ours must equal
diffusers' ControlNetModel on the same weights within the dtype's rounding. Then the bare U-Net, ours and diffusers take
turns, each timed by events of the device around a step; a number is the median over rounds of a ratio within a round.
Synchronisations are what torch itself reports. Then the further ways (`parts/gpu_ways.py`): whole runs with reuse,
networks side by side in one call, all blocks compiled, and three units whose networks wait in main memory. What does
not begin within `--seconds` is left out, and named under `left_out`. `--tiny` is the dry run: small networks, seconds
on a CPU.
"""

from __future__ import annotations

import argparse
import gc
import json
from pathlib import Path
from typing import Any

import torch
from parts import gpu_ways
from parts.gpu_contest import COUNTS, SD15, SDXL, TINY, Contest, Size
from parts.gpu_measuring import Budget, in_turns, peak_mib, synchronisations

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
TOLERANCES = {"fp16": 2e-2, "bf16": 8e-2, "fp32": 1e-3}  # of the largest value of the answer; twelve blocks, reordered
SECONDS = 460  # of a whole run: less than eight minutes
WAYS = {  # with the seconds that each takes at most on a card of 2022 or later; the last one uses the contest up
    "reused": (gpu_ways.reused, 30),
    "beside": (gpu_ways.beside, 20),
    "compiled": (gpu_ways.compiled, 90),
    "offloaded": (gpu_ways.offloaded, 20),
}
STEPS_TIME = 60  # seconds for the steps of one base in one dtype


@torch.no_grad()
def measure(size: Size, dtype: str, device: torch.device, rounds: int, budget: Budget) -> dict[str, float]:
    """Return all numbers of one base model in one dtype."""
    contest = Contest(size, DTYPES[dtype], device)
    found = compared(contest, dtype)
    calls = contest.calls()
    for name, call in calls.items():
        call(1)  # warm
        found[f"syncs_{name}"] = synchronisations(device, lambda call=call: call(1))
        found[f"peak_mib_{name}"] = peak_mib(device, lambda call=call: call(2))
    times = in_turns(device, calls, rounds)
    found["ms_bare"] = times.pop("bare")
    found |= {f"added_{name}": share for name, share in times.items()}
    for name, (way, seconds) in WAYS.items():
        if budget.allows(f"{name} of {size.name} {dtype}", seconds):
            found |= way(contest, rounds)
    return found


def compared(contest: Contest, dtype: str) -> dict[str, float]:
    """Return how far ours is from diffusers, of the largest value; AssertionError where that is no rounding."""
    answers = {name: call(0).float() for name, call in contest.calls().items()}
    found: dict[str, float] = {}
    for count in COUNTS:
        ours, theirs = answers[f"ours_{count}"], answers[f"diffusers_{count}"]
        error = float((ours - theirs).abs().max() / theirs.abs().max())
        assert error <= TOLERANCES[dtype], f"{count} units differ from diffusers by {error}"
        assert float((theirs - answers["bare"]).abs().max() / theirs.abs().max()) > 2 * TOLERANCES[dtype]
        found[f"error_{count}"] = error
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of the whole run")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small networks in fp32: a dry run")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    device, budget = torch.device(args.device), Budget(args.seconds)
    cases = [(TINY, "fp32")] if args.tiny else [(size, dtype) for size in (SDXL, SD15) for dtype in ("fp16", "bf16")]
    numbers: dict[str, Any] = {"device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu"}
    print(numbers["device"])
    for size, dtype in cases:
        if not budget.allows(f"{size.name} {dtype}", STEPS_TIME):
            continue
        numbers[f"{size.name}-{dtype}"] = found = measure(size, dtype, device, args.rounds, budget)
        numbers["left_out"] = budget.left_out
        print(f"\n{size.name} {dtype}")
        for name, value in found.items():
            print(f"  {name:<28}{value:.4f}", flush=True)
        torch.compiler.reset()
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
        if args.json:
            args.json.write_text(json.dumps(numbers, indent=2), encoding="utf-8")
    if budget.left_out:
        print(f"\nleft out for lack of time: {', '.join(budget.left_out)}")


if __name__ == "__main__":
    main()
