"""Reference: the base network looks at another picture, without any weights of its own.

Lvmin Zhang, "reference-only control", sd-webui-controlnet 1.1.153 (`scripts/hook.py`), 2023. At each step the base
network is evaluated once more, on the reference's latents with the noise of that step. What its self-attentions
receive there, n_ref, and mean and deviation of some of its streams, act on the evaluation that draws:

    attention   attn1(n, [n, n_ref])  instead of  attn1(n, n)
    AdaIN       (h - mean(h)) / std(h) * std(h_ref) + mean(h_ref)  instead of  h

On the uncond rows the style fidelity f mixes the plain value back in: f * plain + (1 - f) * changed; for SDXL, whose
attention takes less of it, f is cubed. The noise is always the same, so a picture can be drawn again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from functools import cache

import torch
from torch import Tensor, nn

from ...core.control import ControlModel, HintSpace, Prepared, Prompt
from ...core.network.base import Base
from ...core.network.effects import Effect, Shift, Watch
from ...core.network.points import MIDDLE, Block, Part, Point, stream
from ...core.step import Step
from ..kinds.references import FIDELITY, REFERENCES

KINDS = REFERENCES
ONLY, ADAIN, BOTH = KINDS
# Blocks whose statistics move at the weight 1, by the number of input blocks (hook.py: `gn_weight` * 2 below 1).
INPUTS, OUTPUTS = {12: (10, 11), 9: (8,)}, {12: 4, 9: 3}
XL_INPUTS = 9
STEPS, FIRST_BETA, LAST_BETA = 1000, 0.00085, 0.012  # of the noise of SD and SDXL, "scaled linear"
SEED, EPS = 0, 1e-6
ATTENTION = re.compile(
    r"(?:(input|output)_blocks\.(\d+)|(middle)_block)\.\d+\.transformer_blocks\.(\d+)\.attn1\.to_q\.weight"
)


class ReferenceModel(ControlModel):
    """A reference as the stack sees it; hints are latents of the picture."""

    hint_space, hint_channels = HintSpace.LATENTS, 4
    offers = (FIDELITY,)
    evaluations = 1

    def __init__(self, kind: str, names: Collection[str]) -> None:
        """kind: one of `KINDS`. names: of the base U-Net's weights, by bare ldm names."""
        inputs = len({name.split(".")[1] for name in names if name.startswith("input_blocks.")})
        attentions = sorted({_point(found) for name in names if (found := ATTENTION.fullmatch(name))}, key=_order)
        self.name, self.network, self.base = kind, nn.Module(), Base()
        self._cubed = inputs == XL_INPUTS
        streams = _streams(inputs) if kind in (ADAIN, BOTH) else ()
        self.points = (*(attentions if kind in (ONLY, BOTH) else ()), *streams)
        self.soft_weights = (1.0,) * len(self.points)

    def __call__(
        self, step: Step, prepared: Prepared, prompt: Prompt, points: Collection[Point]
    ) -> Iterator[tuple[Point, Effect]]:
        """Evaluate the base network on the noisy reference, then yield what follows from it."""
        wanted = [point for point in self.points if point in points]
        latents = prepared[0].to(step.x)
        latents = latents.expand(len(step.cond), *latents.shape[1:])
        seen = step.again(noisy(latents, step.timestep), [_look(point) for point in wanted])
        share = step.x.new_tensor([1.0 if cond else 1.0 - self._fidelity for cond in step.cond])
        for point in wanted:
            if point.part is Part.STREAM:
                yield point, Shift(_moved(seen[point], share))
            else:
                yield from _attended(step, point, seen[_look(point)], share)

    @property
    def _fidelity(self) -> float:
        value = float(self.options.get(FIDELITY.name, FIDELITY.default))
        return value**3 if self._cubed else value


def noisy(latents: Tensor, timestep: Tensor) -> Tensor:
    """Return latents [B, C, h, w] with the noise of a time [B], scaled as the base network receives them."""
    signal = _signal()[timestep.cpu().float().round().long()].to(latents)[:, None, None, None]
    generator = torch.Generator().manual_seed(SEED)
    noise = torch.randn(latents.shape[1:], generator=generator).to(latents)
    return signal.sqrt() * latents + (1 - signal).sqrt() * noise


@cache
def _signal() -> Tensor:
    """Return the share of the picture's variance at each time."""
    betas = torch.linspace(FIRST_BETA**0.5, LAST_BETA**0.5, STEPS, dtype=torch.float64) ** 2
    return (1 - betas).cumprod(0)


def _attended(step: Step, point: Point, reference: Tensor, share: Tensor) -> Iterator[tuple[Point, Effect]]:
    """Yield a look at what a self-attention receives, then what it returns more with the reference beside that."""
    received: list[Tensor] = []

    def shift(h: Tensor) -> Tensor:
        x = received.pop()
        return (step.attend(point, x, torch.cat([x, reference.to(x)], dim=1)) - h) * share[:, None, None].to(h)

    yield _look(point, Part.ATTN1_Q), Watch(received.append)
    yield point, Shift(shift)


def _moved(reference: Tensor, share: Tensor) -> Callable[[Tensor], Tensor]:
    """Return what brings a stream to the reference's mean and deviation, map by map."""
    wanted, target = torch.var_mean(reference.float(), dim=(2, 3), keepdim=True, correction=0)

    def shift(h: Tensor) -> Tensor:
        variance, mean = torch.var_mean(h.float(), dim=(2, 3), keepdim=True, correction=0)
        moved = (h.float() - mean) / variance.clamp(min=EPS).sqrt() * wanted.clamp(min=EPS).sqrt() + target
        return ((moved - h) * share[:, None, None, None]).to(h.dtype)

    return shift


def _point(found: re.Match[str]) -> Point:
    side, index, middle, depth = found.groups()
    return Point(Block(middle or side), int(index or 0), Part.ATTN1_OUT, int(depth))


def _order(point: Point) -> tuple[int, int, int]:
    return list(Block).index(point.block), point.index, point.depth


def _look(point: Point, part: Part = Part.ATTN1_K) -> Point:
    """Return where the second evaluation is looked at for a point."""
    return point if point.part is Part.STREAM else Point(point.block, point.index, part, point.depth)


def _streams(inputs: int) -> tuple[Point, ...]:
    encoder = (stream(index) for index in INPUTS.get(inputs, (inputs - 1,)))
    decoder = (Point(Block.OUTPUT, index) for index in range(OUTPUTS.get(inputs, 1)))
    return (*encoder, MIDDLE, *decoder)
