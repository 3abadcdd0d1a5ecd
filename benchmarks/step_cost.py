"""What a unit costs per step over the bare U-Net: exact FLOPs at full SD 1.5 size, 256 px, batch 2.

    python benchmarks/step_cost.py [--json FILE]

Only shapes are computed (meta device), so the numbers are the same on every machine. The peer is diffusers' own way:
its ControlNet on both halves of the batch, hint included, at every step.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from controlstack.core.schedule import progress_at
from controlstack.core.stack import ControlStack
from controlstack.core.unit import ControlMode, ControlUnit, Step
from controlstack.models.families.controlnet import ControlNetModel
from controlstack.training.copy import trainable_copy
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

ROWS, LATENT, STEPS = 2, 32, 20


class MetaUnit(ControlUnit):
    """A unit on the meta device, where no value can be checked."""

    def __post_init__(self) -> None:
        return None


class CountOperations(TorchDispatchMode):
    """Counts every tensor operation."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


def flops(run: Callable[[], object]) -> int:
    """FLOPs of a call, without gradients."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def step(context: Tensor, index: int = 0) -> Step:
    """One evaluation: the uncond row, then the cond row."""
    x, time = torch.randn(ROWS, 4, LATENT, LATENT), torch.ones(ROWS)
    return Step(x=x, timestep=time, context=context, cond=(False, True), progress=progress_at(index, STEPS))


def measure() -> dict[str, float]:
    """All numbers, by the names of docs/performance.md."""
    from diffusers import ControlNetModel as Theirs
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
        theirs = Theirs.from_unet(unet, load_weights_from_unet=False)
        networks = [trainable_copy(unet) for _ in range(3)]
        context, hint = torch.randn(ROWS, 77, 768), torch.rand(1, 3, 8 * LATENT, 8 * LATENT)
        bare = flops(lambda: unet(torch.randn(ROWS, 4, LATENT, LATENT), torch.ones(ROWS), context))
        units = [MetaUnit(model=ControlNetModel(net, name=str(k)), hint=hint) for k, net in enumerate(networks)]
        both = torch.cat([hint] * ROWS)
        peer = flops(lambda: theirs(torch.randn(ROWS, 4, LATENT, LATENT), torch.ones(ROWS), context, both))
        alone = MetaUnit(model=units[0].model, hint=hint, mode=ControlMode.CONTROL)
        return {
            "overhead_1": warm(units[:1], context) / bare,
            "overhead_3": warm(units, context) / bare,
            "overhead_cond_only": warm([alone], context) / bare,
            "peer_overhead_1": peer / bare,
            "peer_overhead_3": 3 * peer / bare,
            "idle_ops": idle(MetaUnit(model=units[0].model, hint=hint, weight=0.0), context),
            "hint_encodes": hint_encodes(units[0], context),
        }


def warm(units: list[MetaUnit], context: Tensor) -> int:
    """FLOPs of a step after the first one."""
    stack = ControlStack(units)
    stack(step(context))
    return flops(lambda: stack(step(context, 1)))


def idle(unit: MetaUnit, context: Tensor) -> int:
    """Tensor operations of a step on which no unit acts."""
    stack, now = ControlStack([unit]), step(context)
    with CountOperations() as operations:
        stack(now)
    return operations.count


def hint_encodes(unit: MetaUnit, context: Tensor) -> int:
    """How often the hint encoder runs in a whole run."""
    calls: list[int] = []
    handle = unit.model.network.input_hint_block.register_forward_hook(lambda *_: calls.append(1))
    stack = ControlStack([unit])
    for index in range(STEPS):
        stack(step(context, index))
    handle.remove()
    return len(calls)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    numbers = measure()
    for name, value in numbers.items():
        print(f"{name:<20}{value:.4f}" if isinstance(value, float) else f"{name:<20}{value}")
    if args.json:
        args.json.write_text(json.dumps(numbers, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
