"""What ControlNeXt weighs and costs beside ControlNet: parameters, and FLOPs added to a step, at full size.

    python benchmarks/controlnext.py [--rounds N] [--json FILE]

Parameters and FLOPs are computed from shapes (meta device), so they are the same on every machine. `total` counts
the base model's U-Net with the control, `learnable` what is trained: of ControlNeXt its network and the weights of its
companion (SD 1.5: every output projection of attention; SDXL: those of cross-attention). The paper's table counts the
first network, of 5.35 million parameters, for both; the files that are published for SDXL hold one of 3.53.

FLOPs are those of a step after the first one at 512 px, SD 1.5, batch 2 (uncond and cond), as a share of the bare
U-Net's; of ControlNeXt also those of the first step at a new time. Time is CPU time of the same, at full size on random
weights and 256 px, on one thread: the median over rounds of what the control takes over what the bare U-Net takes.
`--rounds 0` leaves time out, which takes a minute or two and 6 GB of memory.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from controlstack.core.schedule import progress_at
from controlstack.core.stack import ControlStack
from controlstack.core.step import Step
from controlstack.core.unit import ControlUnit
from controlstack.models.families.controlnet.model import ControlNetModel
from controlstack.models.families.controlnext import ControlNeXt, ControlNeXtModel, Place
from controlstack.models.layers import STANDARD
from controlstack.models.remembered import DIGEST, Remembered
from controlstack.training.recipes.copies import copy_of_encoder
from parts.counting import MetaModel, MetaUnit, flops
from parts.random_weights import filled
from parts.step_contest import seconds
from parts.step_contest import step as contest_step
from step_cost import warm
from torch import Tensor, nn

ROWS, LATENT, TIMED = 2, 64, 32  # sides of latents where FLOPs are counted, and where time is measured
WIDTH, LAST = 128, 256
TIME = {"time_embedding.linear_1.weight": (256, 128)}
OLD = {
    **TIME, "mid_convs.1.weight": (1280, LAST, 1, 1), "down_res.0.conv1.weight": (WIDTH, 3),
    "down_res.1.conv1.weight": (LAST, WIDTH), "down_res.2.conv1.weight": (LAST, LAST),
}  # fmt: skip
NEW = {
    **TIME, "mid_convs.1.weight": (320, LAST, 1, 1), "embedding.0.weight": (64, 3), "embedding.3.weight": (64, 64),
    "embedding.6.weight": (WIDTH, 64), "down_res.0.conv1.weight": (WIDTH, WIDTH),
    "down_res.1.conv1.weight": (LAST, WIDTH),
}  # fmt: skip
SD15: dict[str, Any] = {"cross_attention_dim": 768, "attention_head_dim": 8}
SDXL: dict[str, Any] = {
    "block_out_channels": (320, 640, 1280), "cross_attention_dim": 2048, "attention_head_dim": (5, 10, 20),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10), "use_linear_projection": True, "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2816,
}  # fmt: skip
TRAINED = {"sd15": ".to_out.", "sdxl": ".attn2.to_out."}  # parts of the names of a companion's weights


class MetaNeXt(ControlNeXtModel):
    """A ControlNeXt on the meta device, where hints hold nothing to tell them apart by."""

    def digests(self, hint: Tensor) -> Tensor:
        return torch.zeros(len(hint), DIGEST, dtype=torch.uint8, device="cpu")


def parameters(network: nn.Module) -> int:
    return sum(each.numel() for each in network.parameters())


def step(context: Tensor, time: int) -> Step:
    """Return one evaluation: the uncond row, then the cond row, of one picture; its time has a value."""
    x = torch.empty(ROWS, 4, LATENT, LATENT, device="meta")
    timestep = torch.full((ROWS,), time, device="cpu")
    return Step(x=x, timestep=timestep, context=context, cond=(False, True), progress=progress_at(0, 1))


def evaluated(model: ControlNeXtModel, hint: Tensor, context: Tensor, time: int) -> None:
    """Run one step of a run of its own, with what stands at the point."""
    effects = ControlStack([MetaUnit(model=model, hint=hint)])(step(context, time))
    for shift in effects.shifts.values():
        shift(torch.empty(ROWS, 320, LATENT // 2, LATENT // 2, device="meta"))


def measure() -> dict[str, float]:
    """Return all numbers, by name."""
    from diffusers import UNet2DConditionModel

    numbers: dict[str, float] = {}
    with torch.device("meta"):
        unets = {"sd15": UNet2DConditionModel(sample_size=64, **SD15), "sdxl": UNet2DConditionModel(**SDXL)}
        first, released = ControlNeXt(OLD, STANDARD), ControlNeXt(NEW, STANDARD)
        for name, unet in unets.items():
            base, control = parameters(unet), parameters(copy_of_encoder(unet))
            companion = sum(each.numel() for key, each in unet.named_parameters() if TRAINED[name] in key)
            numbers |= {
                f"{name}_base": base,
                f"{name}_total": base + parameters(first),
                f"{name}_learnable": companion + parameters(first),
                f"{name}_controlnet_total": base + control,
                f"{name}_controlnet_learnable": control,
            }
        context, hint = torch.empty(ROWS, 77, 768), torch.empty(1, 3, 8 * LATENT, 8 * LATENT)
        x, time = torch.empty(ROWS, 4, LATENT, LATENT), torch.ones(ROWS)
        bare = flops(lambda: unets["sd15"](x, time, context))
        model = MetaNeXt(released, name="next", place=Place.HALVED, remembered=Remembered(device="meta"))
        unit = MetaUnit(model=MetaModel(copy_of_encoder(unets["sd15"]), name="control"), hint=hint)
        return numbers | {
            "controlnext_network": parameters(released),
            "controlnext_network_old": parameters(first),
            "added_flops_controlnet": warm([unit], context, LATENT) / bare,
            "first_flops_controlnext": flops(lambda: evaluated(model, hint, context, 500)) / bare,
            "added_flops_controlnext": flops(lambda: evaluated(model, hint, context, 500)) / bare,
        }


@torch.no_grad()
def times(rounds: int) -> dict[str, float]:
    """Return what each control adds to the CPU time of a step, as a share of the bare U-Net's."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    found = list(_timed(rounds))
    return {name: statistics.median(each[name] for each in found) for name in found[0]}


def _timed(rounds: int) -> Iterator[dict[str, float]]:
    """Yield the shares of a step, after a first one, each at a time of its own."""
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        unet: Any = UNet2DConditionModel(sample_size=64, **SD15)
        copied, network = copy_of_encoder(unet), ControlNeXt(NEW, STANDARD)
    filled(unet)
    hint, context = torch.rand(1, 3, 8 * TIMED, 8 * TIMED), torch.randn(ROWS, 77, 768)
    model = ControlNeXtModel(filled(network), name="next", place=Place.HALVED)
    control = ControlStack([ControlUnit(model=ControlNetModel(filled(copied), name="control"), hint=hint)])
    first, second = (ControlStack([ControlUnit(model=model, hint=hint)]) for _ in range(2))  # two pictures
    stream = torch.randn(ROWS, 320, TIMED // 2, TIMED // 2)

    def entered(stack: ControlStack, now: Step) -> None:
        for shift in stack(now).shifts.values():
            shift(stream)

    for index in range(rounds + 1):
        now = replace(contest_step(context, index), timestep=torch.full((ROWS,), 900.0 - index))
        bare = seconds(lambda now: unet(now.x, now.timestep, now.context), now)
        shares = {
            "added_time_controlnet": seconds(control, now) / bare,
            "first_time_controlnext": seconds(lambda now: entered(first, now), now) / bare,
            "added_time_controlnext": seconds(lambda now: entered(second, now), now) / bare,
        }
        if index:  # in the first step hints are prepared
            yield shares


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="of CPU time; 0: none")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    numbers = measure() | (times(args.rounds) if args.rounds else {})
    for name, value in numbers.items():
        print(f"{name:<28}{value:.4f}" if isinstance(value, float) else f"{name:<28}{value:,}")
    if args.json:
        args.json.write_text(json.dumps(numbers, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
