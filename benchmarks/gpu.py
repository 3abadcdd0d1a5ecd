"""What units cost on a GPU: latency, host synchronisations and memory of a step, against diffusers in the same process.

    python benchmarks/gpu.py [--rounds N] [--json FILE] [--device cpu --tiny]

Full-size U-Nets and ControlNets of random weights (nothing is downloaded): SD 1.5 at 512 px and SDXL at 1024 px, batch
2 (uncond and cond row of a picture), fp16 and bf16, one to three units on different networks. First ours must equal
diffusers' ControlNetModel on the same weights within the dtype's rounding. Then the bare U-Net, ours and diffusers take
turns, each timed by events of the device around a step; a number is the median over rounds of a ratio within a round.
Synchronisations are what torch itself reports. `--tiny` is the dry run: small networks, seconds on a CPU.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from controlstack.core.schedule import progress_at
from controlstack.core.stack import ControlStack
from controlstack.core.step import Step
from controlstack.core.unit import ControlUnit
from controlstack.models.families.controlnet.model import ControlNetModel
from controlstack.models.naming import to_diffusers
from controlstack.pipelines.attached import arguments, vector_condition
from controlstack.training.recipes.copies import copy_of_encoder
from torch import Tensor, nn

ROWS, STEPS, COUNTS = 2, 20, (1, 2, 3)
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
TOLERANCES = {"fp16": 2e-2, "bf16": 8e-2, "fp32": 1e-3}  # of the largest value of the answer; twelve blocks, reordered
SYNC = "called a synchronizing"  # in torch's warning
MIB = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Size:
    """A kind of base model and the size of its picture in latent pixels."""

    name: str
    unet: dict[str, Any]
    latent: int
    context: int
    label: int = 0


SD15 = Size(name="sd15-512", unet={"cross_attention_dim": 768, "attention_head_dim": 8}, latent=64, context=768)
SDXL = Size(
    name="sdxl-1024",
    unet={
        "block_out_channels": (320, 640, 1280),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 2, 10),
        "cross_attention_dim": 2048,
        "attention_head_dim": (5, 10, 20),
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
    latent=128,
    context=2048,
    label=2816,
)
TINY = Size(
    name="tiny",
    unet={
        "block_out_channels": (32, 64),
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": 768,
        "attention_head_dim": 8,
    },
    latent=8,
    context=768,
)


class Contest:
    """The bare U-Net, ours and diffusers, on one copy of random weights, each as a call of one step."""

    def __init__(self, size: Size, dtype: torch.dtype, device: torch.device) -> None:
        from diffusers import ControlNetModel as Theirs
        from diffusers import UNet2DConditionModel

        torch.manual_seed(0)
        self.device, self.dtype = device, dtype
        with torch.device("meta"):
            self.unet: Any = UNet2DConditionModel(sample_size=size.latent, **size.unet)
            networks = [copy_of_encoder(self.unet).to(dtype) for _ in COUNTS]
            peers = [Theirs.from_unet(self.unet, load_weights_from_unet=False).to(dtype) for _ in COUNTS]
        self.unet = _filled(self.unet.to(dtype), device)
        for network, peer in zip(networks, peers, strict=True):
            _filled(network, device)
            peer.load_state_dict(to_diffusers(network.state_dict()), assign=True)
            peer.eval().requires_grad_(False)
        self.networks, self.peers = networks, peers
        side = size.latent * 8
        self.hint = torch.rand(1, 3, side, side, device=device)
        self.context = torch.randn(ROWS, 77, size.context, device=device, dtype=dtype)
        self.label = torch.randn(ROWS, size.label, device=device, dtype=dtype) if size.label else None
        x = torch.randn(1, 4, size.latent, size.latent, device=device, dtype=dtype)
        self.x = torch.cat([x] * ROWS)
        self.stacks = {count: ControlStack(self._units(count)) for count in COUNTS}

    def _units(self, count: int) -> list[ControlUnit]:
        models = [ControlNetModel(network, name=str(k)) for k, network in enumerate(self.networks[:count])]
        return [ControlUnit(model=model, hint=self.hint) for model in models]

    @property
    def added(self) -> dict[str, Any]:
        """Return SDXL's further conditions: pooled text and sizes."""
        if self.label is None:
            return {}
        return {"added_cond_kwargs": {"text_embeds": self.label[:, :1280], "time_ids": self._times}}

    @property
    def _times(self) -> Tensor:
        return torch.full((ROWS, 6), 512.0, device=self.device, dtype=self.dtype)

    def step(self, index: int) -> Step:
        """Return the step as the pipeline's hook makes it."""
        return Step(
            x=self.x,
            timestep=self._timestep(index),
            context=self.context,
            cond=(False, True),
            progress=progress_at(index % STEPS, STEPS),
            y=vector_condition(self.unet, self.added.get("added_cond_kwargs")),
            pictures=(0, 0),
        )

    def _timestep(self, index: int) -> Tensor:
        return torch.full((ROWS,), 981 - 50 * (index % STEPS), device=self.device)

    def bare(self, index: int) -> Tensor:
        return self.unet(self.x, self._timestep(index), self.context, **self.added).sample

    def ours(self, count: int, index: int) -> Tensor:
        more = arguments(self.unet, self.stacks[count](self.step(index)), {})
        return self.unet(self.x, self._timestep(index), self.context, **self.added, **more).sample

    def theirs(self, count: int, index: int) -> Tensor:
        """Draw as the loop of StableDiffusionControlNetPipeline does with a MultiControlNetModel."""
        total: Any = None
        hint = torch.cat([self.hint] * ROWS).to(self.dtype)
        for peer in self.peers[:count]:
            skips, middle = peer(
                self.x,
                self._timestep(index),
                encoder_hidden_states=self.context,
                controlnet_cond=hint,
                return_dict=False,
                **self.added,
            )
            total = (skips, middle) if total is None else _sum(total, (skips, middle))
        more = {"down_block_additional_residuals": total[0], "mid_block_additional_residual": total[1]}
        return self.unet(self.x, self._timestep(index), self.context, **self.added, **more).sample

    def calls(self) -> dict[str, Callable[[int], Tensor]]:
        """Return the calls of one step, by the names of their numbers."""
        ours = {f"ours_{n}": lambda index, n=n: self.ours(n, index) for n in COUNTS}
        theirs = {f"diffusers_{n}": lambda index, n=n: self.theirs(n, index) for n in COUNTS}
        return {"bare": self.bare, **ours, **theirs}


def _sum(total: Any, more: Any) -> Any:
    return [a + b for a, b in zip(total[0], more[0], strict=True)], total[1] + more[1]


def _filled(network: nn.Module, device: torch.device) -> Any:
    """Return the network with random weights, scaled by their fan-in; the scales of the norms stay 1."""
    network.to_empty(device=device).eval().requires_grad_(False)
    for name, parameter in network.named_parameters():
        if parameter.ndim > 1:
            parameter.normal_(0, parameter[0].numel() ** -0.5)
        else:
            parameter.fill_(1.0 if name.endswith("weight") else 0.01)
    return network


def synchronisations(device: torch.device, call: Callable[[int], object]) -> int:
    """Count how often a step makes the host wait for the device, as torch reports it; 0 on a CPU."""
    if device.type != "cuda":
        return 0
    torch.cuda.synchronize()
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            call(1)
        finally:
            torch.cuda.set_sync_debug_mode(before)
    return sum(SYNC in str(each.message) for each in said)


def milliseconds(device: torch.device, call: Callable[[int], object], index: int) -> float:
    """Return the time of one step, by events of the device, or by the clock of the CPU."""
    if device.type != "cuda":
        begin = time.process_time()
        call(index)
        return 1000 * (time.process_time() - begin)
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    begin.record()
    call(index)
    end.record()
    end.synchronize()
    return begin.elapsed_time(end)


def peak_mib(device: torch.device, call: Callable[[int], object]) -> float:
    """Return the most memory that a step needs above what is held before it, in MiB."""
    if device.type != "cuda":
        return 0.0
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call(2)
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / MIB


@torch.no_grad()
def measure(size: Size, dtype: str, device: torch.device, rounds: int) -> dict[str, float]:
    """Return all numbers of one base model in one dtype."""
    contest = Contest(size, DTYPES[dtype], device)
    calls = contest.calls()
    answers = {name: call(0).float() for name, call in calls.items()}
    found: dict[str, float] = {}
    for count in COUNTS:
        ours, theirs = answers[f"ours_{count}"], answers[f"diffusers_{count}"]
        error = float((ours - theirs).abs().max() / theirs.abs().max())
        assert error <= TOLERANCES[dtype], f"{count} units differ from diffusers by {error}"
        assert float((theirs - answers["bare"]).abs().max() / theirs.abs().max()) > 2 * TOLERANCES[dtype]
        found[f"error_{count}"] = error
    for name, call in calls.items():
        call(1)  # warm
        found[f"syncs_{name}"] = synchronisations(device, call)
        found[f"peak_mib_{name}"] = peak_mib(device, call)
    spent: dict[str, list[float]] = {name: [] for name in calls}
    for index in range(rounds):
        order = list(calls) if index % 2 == 0 else list(reversed(calls))
        for name in order:
            spent[name].append(milliseconds(device, calls[name], 3 + index))
    found["ms_bare"] = statistics.median(spent["bare"])
    for name in calls:
        if name != "bare":
            ratios = [a / b for a, b in zip(spent[name], spent["bare"], strict=True)]
            found[f"added_{name}"] = statistics.median(ratios) - 1
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small networks in fp32: a dry run")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    device = torch.device(args.device)
    cases = [(TINY, "fp32")] if args.tiny else [(size, dtype) for size in (SD15, SDXL) for dtype in ("fp16", "bf16")]
    numbers: dict[str, Any] = {"device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu"}
    print(numbers["device"])
    for size, dtype in cases:
        numbers[f"{size.name}-{dtype}"] = found = measure(size, dtype, device, args.rounds)
        print(f"\n{size.name} {dtype}")
        for name, value in found.items():
            print(f"  {name:<24}{value:.4f}", flush=True)
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
        if args.json:
            args.json.write_text(json.dumps(numbers, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
