"""CPU time of a step at full SD 1.5 size: the bare U-Net, ours and diffusers' take turns on the same weights."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from controlstack.core.schedule import progress_at
from controlstack.core.stack import ControlStack
from controlstack.core.step import Step
from controlstack.core.unit import ControlUnit
from controlstack.models.families.controlnet.model import ControlNetModel
from controlstack.models.families.controlnet.network import ControlNet
from controlstack.models.naming import to_diffusers
from controlstack.pipelines.attached import arguments
from controlstack.training.recipes.copies import copy_of_encoder
from torch import Tensor

from .random_weights import filled

ROWS, LATENT, STEPS = 2, 32, 20
COUNTS = (1, 2, 3)  # units that are compared
TOLERANCE = 1e-3  # ours against the peer, of the largest value: twelve blocks of fp32 in another order


def step(context: Tensor, index: int = 0, latent: int = LATENT) -> Step:
    """Return one evaluation: the uncond row, then the cond row, of one picture."""
    x, time = torch.randn(1, 4, latent, latent).repeat(ROWS, 1, 1, 1), torch.ones(ROWS)
    progress = progress_at(index, STEPS)
    return Step(x=x, timestep=time, context=context, cond=(False, True), progress=progress, pictures=(0,) * ROWS)


class Contest:
    """The bare U-Net, ours and the peer, on one copy of random weights in memory, each as a call of one step."""

    def __init__(self) -> None:
        from diffusers import ControlNetModel as Theirs
        from diffusers import MultiControlNetModel, UNet2DConditionModel

        torch.manual_seed(0)
        with torch.device("meta"):
            self.unet: Any = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
            networks = [copy_of_encoder(self.unet) for _ in COUNTS]
            theirs = Theirs.from_unet(self.unet, load_weights_from_unet=False)
        filled(self.unet)
        filled(networks[0])
        state = networks[0].state_dict()
        theirs.load_state_dict(to_diffusers(state), assign=True)
        for network in networks[1:]:
            network.load_state_dict(state, assign=True)
        for part in (theirs, *networks):
            part.eval().requires_grad_(False)
        self.hint, context = torch.rand(1, 3, 8 * LATENT, 8 * LATENT), torch.randn(ROWS, 77, 768)
        self.steps = [step(context, index) for index in range(STEPS)]
        self.peers = {1: theirs, **{n: MultiControlNetModel([theirs] * n) for n in COUNTS[1:]}}
        self.stacks = {n: ControlStack(self._units(networks[:n])) for n in COUNTS}

    def _units(self, networks: list[ControlNet]) -> list[ControlUnit]:
        models = [ControlNetModel(network, name=str(k)) for k, network in enumerate(networks)]
        return [ControlUnit(model=model, hint=self.hint) for model in models]

    def calls(self) -> dict[str, Callable[[Step], Tensor]]:
        """Return the names of numbers, each with one step."""
        ours = {f"cpu_ratio_{n}": lambda now, n=n: self.ours(n, now) for n in COUNTS}
        theirs = {f"peer_cpu_ratio_{n}": lambda now, n=n: self.theirs(n, now) for n in COUNTS}
        return {"bare": self.bare, **ours, **theirs}

    def bare(self, now: Step) -> Tensor:
        return self.unet(now.x, now.timestep, now.context).sample

    def ours(self, count: int, now: Step) -> Tensor:
        more = arguments(self.unet, self.stacks[count](now), {})
        return self.unet(now.x, now.timestep, now.context, **more).sample

    def theirs(self, count: int, now: Step) -> Tensor:
        """Run a step as the loop of StableDiffusionControlNetPipeline does."""
        several, both = count > 1, torch.cat([self.hint] * ROWS)
        skips, middle = self.peers[count](
            now.x,
            now.timestep,
            encoder_hidden_states=now.context,
            controlnet_cond=[both] * count if several else both,
            conditioning_scale=[1.0] * count if several else 1.0,
            guess_mode=False,
            return_dict=False,
        )
        more = {"down_block_additional_residuals": skips, "mid_block_additional_residual": middle}
        return self.unet(now.x, now.timestep, now.context, **more).sample


def seconds(call: Callable[[Step], object], now: Step) -> float:
    """Return CPU time of one step."""
    begin = time.process_time()
    call(now)
    return time.process_time() - begin


@torch.no_grad()
def cpu_ratios(rounds: int) -> dict[str, float]:
    """Return CPU time of a step over the bare U-Net's; the first step of each is not counted."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    contest = Contest()
    calls = contest.calls()
    first = {name: call(contest.steps[0]) for name, call in calls.items()}
    for count in COUNTS:
        ours, theirs = first[f"cpu_ratio_{count}"], first[f"peer_cpu_ratio_{count}"]
        assert (ours - theirs).abs().max() <= TOLERANCE * theirs.abs().max(), (
            "ours and the peer draw different pictures"
        )
        assert not theirs.equal(first["bare"])
    spent: dict[str, list[float]] = {name: [] for name in calls}
    for index in range(rounds):
        others = [name for name in calls if name != "bare"]
        order = ["bare", *(others if index % 2 == 0 else reversed(others))]
        times = {name: seconds(calls[name], contest.steps[1 + index % (STEPS - 1)]) for name in order}
        times["bare"] += seconds(contest.bare, contest.steps[0])  # at both ends of a round, so that a drift cancels
        for name, value in times.items():
            spent[name].append(value / 2 if name == "bare" else value)
    bare = spent.pop("bare")
    ratios = {name: [a / b for a, b in zip(times, bare, strict=True)] for name, times in spent.items()}
    medians = {name: statistics.median(values) for name, values in ratios.items()}
    return {**medians, "cpu_seconds_bare": statistics.median(bare), "cpu_rounds": rounds}
