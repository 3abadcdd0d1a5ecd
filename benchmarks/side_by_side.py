"""ControlNets of one shape in one call, against one after another.

    python benchmarks/side_by_side.py [--rounds N] [--threads 1 2] [--sizes NAME ...] [--device cuda] [--json FILE]

Two and three networks of different weights answer for the same picture, in three ways: one after another; `vmap`, over
the same weights, stacked; `grouped`, the same network made of layers that compute for all at once (`models/beside.py`:
convolutions in groups, products of batches). Random weights, batch 2 (uncond and cond row of a picture), hints'
features and prompts' projections computed before, as from the second step on. `--draw` adds whole pictures of the tiny
world, drawn in one call and one after another. `--device cuda --dtype float16` measures the same on a GPU.

All ways must give the same numbers before anything is timed, and FLOPs are counted from shapes. The ways take turns,
in an order that turns round; a number is the median over rounds of a way's time over that of one after another in the
same round. On a CPU time is the clock's where there are more threads than one, else the processor's.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
from controlstack.core.network.points import MIDDLE, skip
from controlstack.core.network.rows import Twins
from controlstack.core.unit import ControlUnit
from controlstack.models.beside import BesideOps, put_beside
from controlstack.models.families.controlnet.config import Block, ControlNetConfig
from controlstack.models.families.controlnet.network import ControlNet
from controlstack.models.registry import load_control_model
from controlstack.pipelines.bases import Base, load_base
from controlstack.pipelines.drawing import generate
from controlstack.pipelines.request import Request
from controlstack.pipelines.tiny_world import BASE, CONTROLS, SIDE
from parts import counting
from torch import Tensor, nn
from torch.func import functional_call

ROWS, TOKENS = 2, 77
ONE, VMAP, GROUPED = "one after another", "vmap", "grouped"
COUNTS = (2, 3)
KINDS, DRAWN = ("canny", "depth", "color"), 20  # controls of the tiny world, and steps of a picture
SPREAD = 0.02  # of random weights; small enough that no activation overflows
TOLERANCE = 1e-4  # of the largest value: fp32 in another order
Residuals = list[Tensor]  # [networks * ROWS, C, h, w] each, the rows of the first network first
Way = Callable[[Tensor, Tensor], Residuals]  # (x [ROWS, 4, h, w], timestep [ROWS]) -> residuals


@dataclass(frozen=True)
class Size:
    """A shape of network and of picture."""

    widths: tuple[int, ...]  # by level
    heads: int
    context: int
    groups: int
    latent: int  # pixels of the latents' side

    @property
    def config(self) -> ControlNetConfig:
        """Return the hyperparameters: two residual blocks by level, with transformers in all levels but the last."""
        first, *others = self.widths
        blocks = [Block(first, 1)] * 2
        for level, (before, width) in enumerate(zip(self.widths, others, strict=False)):
            depth = int(level < len(others) - 1)
            blocks += [Block(before, down=True), Block(width, depth), Block(width, depth)]
        return ControlNetConfig(
            channels=first, blocks=tuple(blocks), middle_depth=1, context=self.context, heads=self.heads,
            groups=self.groups,
        )  # fmt: skip


SD15, TINY = Size((320, 640, 1280, 1280), 8, 768, 32, 8), Size((32, 64, 64, 64), 4, 64, 8, 16)
SIZES = {
    "tiny world, 64 px": Size(TINY.widths, TINY.heads, TINY.context, TINY.groups, 8),
    "tiny world, 128 px": TINY,
    "tiny world, 512 px": Size(TINY.widths, TINY.heads, TINY.context, TINY.groups, 64),
    "SD 1.5, 64 px": SD15,
    "SD 1.5, 128 px": Size(SD15.widths, SD15.heads, SD15.context, SD15.groups, 16),
    "SD 1.5, 256 px": Size(SD15.widths, SD15.heads, SD15.context, SD15.groups, 32),
    "SD 1.5, 512 px": Size(SD15.widths, SD15.heads, SD15.context, SD15.groups, 64),
}


class Contest:
    """Networks of one shape and what they are told, and the ways to ask them."""

    def __init__(self, size: Size, count: int, device: torch.device, dtype: torch.dtype) -> None:
        """Make the networks. device: may be meta, where FLOPs can be counted."""
        torch.manual_seed(0)
        kind = {"device": device, "dtype": dtype}
        with torch.device("meta"):
            self.networks = [ControlNet(size.config).to(dtype) for _ in range(count)]
            self.grouped = ControlNet(size.config, BesideOps())
            self.base = deepcopy(self.networks[0])
        for network in self.networks:
            _fill(network, device)
        put_beside(self.networks, self.grouped)
        self.stacked = {name: each.detach() for name, each in self.grouped.named_parameters()}
        self.points = (*(skip(i) for i in range(len(size.config.blocks) + 1)), MIDDLE)
        self.twins = Twins.of((0,) * ROWS)
        with torch.no_grad():
            context = torch.randn(ROWS, TOKENS, size.context, **kind)
            self.prompts = [network.project(context) for network in self.networks]
            self.features = [torch.randn(1, size.widths[0], size.latent, size.latent, **kind) for _ in self.networks]
        self.x = torch.randn(1, 4, size.latent, size.latent, **kind).repeat(ROWS, 1, 1, 1)
        self.timestep = torch.full((ROWS,), 500.0, device=device)

    def ways(self) -> dict[str, Way]:
        """Return the three ways by name."""
        return {ONE: self.one_after_another(), VMAP: self.by_vmap(), GROUPED: self.by_groups()}

    def one_after_another(self) -> Way:
        """Return one call of each network."""

        def run(x: Tensor, timestep: Tensor) -> Residuals:
            rows = [
                self._ask(network, x, timestep, features, prompt, self.twins)
                for network, features, prompt in zip(self.networks, self.features, self.prompts, strict=True)
            ]
            return [torch.cat(each) for each in zip(*rows, strict=True)]

        return run

    def by_vmap(self) -> Way:
        """Return one call over stacked weights, vectorised by torch."""
        prompts = tuple(torch.stack(each) for each in zip(*self.prompts, strict=True))
        features = torch.stack(self.features)

        def one(weights: dict[str, Tensor], features: Tensor, prompt: Any, x: Tensor, timestep: Tensor) -> Residuals:
            asked = _Asked(self.base, self._ask)
            given = (x, timestep, features, prompt, self.twins)
            return functional_call(asked, {f"network.{name}": each for name, each in weights.items()}, given)

        every = torch.vmap(one, in_dims=(0, 0, 0, None, None))

        def run(x: Tensor, timestep: Tensor) -> Residuals:
            return [each.flatten(0, 1) for each in every(self.stacked, features, prompts, x, timestep)]

        return run

    def by_groups(self) -> Way:
        """Return one call of a network whose layers compute for all at once."""
        count = len(self.networks)
        prompts = tuple(torch.cat(each) for each in zip(*self.prompts, strict=True))
        features = torch.cat([each.expand(ROWS, -1, -1, -1) for each in self.features])
        twins = Twins.of([number for number in range(count) for _ in range(ROWS)])

        def run(x: Tensor, timestep: Tensor) -> Residuals:
            x, timestep = x.repeat(count, 1, 1, 1), timestep.repeat(count)
            return self._ask(self.grouped, x, timestep, features, prompts, twins)

        return run

    def _ask(
        self, network: ControlNet, x: Tensor, timestep: Tensor, features: Tensor, prompt: Any, twins: Twins | None
    ) -> Residuals:
        answers = network.residuals(x, timestep, (features,), prompt, None, self.points, twins)
        return [residual for _, residual in answers]


class _Asked(nn.Module):
    """A network whose call is the question after all residuals."""

    def __init__(self, network: ControlNet, ask: Callable[..., Residuals]) -> None:
        super().__init__()
        self.network, self._question = network, ask

    def forward(self, *given: Any) -> Residuals:
        return self._question(self.network, *given)


def _fill(network: nn.Module, device: torch.device) -> None:
    """Put random weights in place of shapes; the scales of the norms lie around 1."""
    network.to_empty(device=device).eval().requires_grad_(False)
    for name, parameter in network.named_parameters():
        parameter.uniform_(-SPREAD, SPREAD)
        if parameter.ndim == 1 and name.endswith("weight"):
            parameter.add_(1.0)


def flops(size: Size, count: int) -> dict[str, int]:
    """Return the FLOPs of each way, from shapes alone."""
    contest = Contest(size, count, torch.device("meta"), torch.float32)
    return {
        name: counting.flops(lambda way=way: way(contest.x, contest.timestep)) for name, way in contest.ways().items()
    }


@torch.no_grad()
def errors(contest: Contest) -> dict[str, float]:
    """Return the largest difference of each way from one after another, over the largest value."""
    answers = {name: way(contest.x, contest.timestep) for name, way in contest.ways().items()}
    first = answers.pop(ONE)
    return {
        name: max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(answer, first, strict=True))
        for name, answer in answers.items()
    }


def clock(device: torch.device) -> float:
    """Return a time in seconds: of the processor, or the clock's where several work."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.process_time() if device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter()


@torch.no_grad()
def times(contest: Contest, rounds: int, calls: int = 1) -> dict[str, float]:
    """Return milliseconds of one after another, and the time of the other ways over it. calls: of a way in a round."""
    ways, device = contest.ways(), contest.x.device
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name in list(ways) if number % 2 else list(reversed(ways)):
            begin = clock(device)
            for _ in range(calls):
                ways[name](contest.x, contest.timestep)
            spent[name].append((clock(device) - begin) / calls)
    measured = {name: values[1:] for name, values in spent.items()}  # the first round warms up
    bare = measured.pop(ONE)
    ratios = {name: statistics.median(a / b for a, b in zip(values, bare, strict=True))
              for name, values in measured.items()}  # fmt: skip
    return {"ms": 1000 * statistics.median(bare), **ratios}


def measure(
    names: Sequence[str], counts: Sequence[int], threads: Sequence[int], rounds: int, device: torch.device,
    dtype: torch.dtype = torch.float32,
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """Yield a row for each size, number of networks and number of threads."""
    for name, count in product(names, counts):
        size = SIZES[name]
        contest, counted = Contest(size, count, device, dtype), flops(size, count)
        wrong = errors(contest)
        if dtype == torch.float32:
            assert max(wrong.values()) <= TOLERANCE, f"the ways differ by {wrong}"
        for number in threads:
            torch.set_num_threads(number)
            row = {
                "size": name,
                "networks": count,
                "threads": number,
                **times(contest, rounds, 8 if "tiny" in name else 1),
            }
            yield {**row, "flops": counted, "errors": wrong}
        del contest
        gc.collect()


class Alone(Base):
    """A base that has networks computed one after another."""

    computes_beside = False


def drawing(count: int, rounds: int) -> dict[str, float]:
    """Return CPU time that controls add to a picture of the tiny world: in one call over one after another."""
    base = load_base(BASE)
    alone = Alone(base.pipeline, base.device, base.offload)
    request, hint = Request(steps=DRAWN, width=SIDE, height=SIDE), torch.rand(1, 3, SIDE, SIDE)
    models = [load_control_model(CONTROLS / f"{name}.safetensors") for name in KINDS[:count]]
    units = [ControlUnit(model=model, hint=hint) for model in models]
    kinds = {"bare": (base, []), "one call": (base, units), ONE: (alone, units)}
    found: list[dict[str, float]] = []
    for number in range(rounds + 1):
        spent: dict[str, float] = {}
        for name in list(kinds) if number % 2 else list(reversed(kinds)):
            begin = time.process_time()
            generate(kinds[name][0], request, kinds[name][1])
            spent[name] = time.process_time() - begin
        found.append(spent)
    added = [(each["one call"] - each["bare"]) / (each[ONE] - each["bare"]) for each in found[1:]]
    whole = [each["one call"] / each[ONE] for each in found[1:]]
    return {"networks": count, "added": statistics.median(added), "whole": statistics.median(whole)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, nargs="+", default=(1, 2))
    parser.add_argument("--networks", type=int, nargs="+", default=COUNTS)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=tuple(SIZES))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), default="float32")
    parser.add_argument("--draw", action="store_true", help="also whole pictures of the tiny world, on one thread")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_flush_denormal(True)
    rows = []
    print("| size | networks | threads | ms, one after another | vmap | grouped |\n|---|---|---|---|---|---|")
    for row in measure(args.sizes, args.networks, args.threads, args.rounds, torch.device(args.device),
                       getattr(torch, args.dtype)):  # fmt: skip
        rows.append(row)
        print(f"| {row['size']} | {row['networks']} | {row['threads']} | {row['ms']:.1f} | {row[VMAP]:.2f} "
              f"| {row[GROUPED]:.2f} |", flush=True)  # fmt: skip
    drawn = [drawing(count, args.rounds) for count in args.networks] if args.draw else []
    for each in drawn:
        print(
            f"a picture with {each['networks']}: {each['whole']:.2f} of its time, {each['added']:.2f} of what is added"
        )
    if args.json:
        args.json.write_text(json.dumps({"networks": rows, "pictures": drawn}, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
