"""CPU time of a ControlNet as it is written, with compiled blocks, compiled whole, and in the channels-last layout.

    python benchmarks/compiled.py [--sides PIXELS ...] [--full] [--rounds N] [--json FILE]

A ControlNet a fifth as wide as SD 1.5's (--full: as wide), random weights, fp32, both rows of one picture, one thread.
The ways share their weights and take turns; each computes once before, which compiles it for this size. `time` is the
median over rounds of a way's time over the plain one's. Needs a C++ compiler, which inductor calls.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import growth_inside as inside
import torch
from controlstack.core.stack import ControlStack
from controlstack.core.unit import ControlUnit
from controlstack.models.families.controlnet.model import ControlNetModel
from controlstack.models.families.controlnet.network import ControlNet
from controlstack.training.recipes.copies import copy_of_encoder
from parts.gpu_ways import compile_blocks
from parts.random_weights import filled
from parts.step_contest import seconds, step

FULL, CONTEXT = (320, 640, 1280, 1280), inside.CONTEXT
PLAIN = "plain"
TOLERANCE = 1e-4  # of a way against the plain one, of the largest value
WARM = 2  # steps before the first round: hints are prepared, and networks compiled


def made(widths: tuple[int, ...]) -> ControlNet:
    """Return a ControlNet of random weights for a U-Net of these widths."""
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    with torch.device("meta"):
        unet: Any = UNet2DConditionModel(
            block_out_channels=widths, cross_attention_dim=CONTEXT, attention_head_dim=inside.HEADS
        )
        network = copy_of_encoder(unet)
    return filled(network)


def ways(network: ControlNet) -> dict[str, ControlNet]:
    """Return the network as it is compared, one after the other on the same values."""
    found = {PLAIN: network, **{name: deepcopy(network) for name in ("blocks", "whole", "channels last")}}
    compile_blocks(found["blocks"], "inductor")
    whole: Any = found["whole"]
    whole.residuals = torch.compile(whole.residuals, dynamic=False)
    found["channels last"].to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    return found


@torch.no_grad()
def measure(networks: Mapping[str, ControlNet], side: int, rounds: int) -> dict[str, float]:
    """Return each way's time over the plain one's, at pictures of this side in pixels."""
    torch._dynamo.reset()
    context, latent = torch.randn(2, 77, CONTEXT), side // inside.LATENT
    hint = torch.rand(1, 3, side, side)
    stacks = {
        name: ControlStack([ControlUnit(model=ControlNetModel(each, name=name), hint=hint)])
        for name, each in networks.items()
    }
    now = step(context, latent=latent)
    check_same({name: _skips(stack, WARM, now) for name, stack in stacks.items()})
    calls: dict[str, Callable[[], float]] = {
        name: (lambda stack=stack: seconds(stack, now)) for name, stack in stacks.items()
    }
    orders = (list(calls) if turn % 2 else list(reversed(calls)) for turn in range(rounds))
    found = [{name: calls[name]() for name in order} for order in orders]
    return {
        "ms_plain": 1000 * statistics.median(each[PLAIN] for each in found),
        **{name: statistics.median(each[name] / each[PLAIN] for each in found) for name in networks if name != PLAIN},
    }


def _skips(stack: ControlStack, times: int, now: Any) -> tuple[torch.Tensor | None, ...]:
    for _ in range(times):
        found = stack(now)
    return found.output


def check_same(found: Mapping[str, tuple[torch.Tensor | None, ...]]) -> None:
    """Raise AssertionError where a way answers otherwise than the plain one."""
    for name, tensors in found.items():
        for one, other in zip(tensors, found[PLAIN], strict=True):
            assert one is not None and other is not None
            assert (one - other).abs().max() <= TOLERANCE * other.abs().max(), f"{name} answers otherwise"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sides", type=int, nargs="+", default=[128, 256])
    parser.add_argument("--full", action="store_true", help="as wide as SD 1.5")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    networks = ways(made(FULL if args.full else inside.WIDTHS))
    rows = {side: measure(networks, side, args.rounds) for side in args.sides}
    print(json.dumps(rows, indent=1))
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
