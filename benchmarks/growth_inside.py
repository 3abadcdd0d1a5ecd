"""Steps of a narrow SD 1.5 in this process: the bare U-Net, ours, and diffusers' ControlNets, for `growth.py`.

A picture in tiles is one evaluation for each tile, 128 pixels wide, beside each other; each program gives a tile its
part of the hint.
"""

from __future__ import annotations

import ctypes
import gc
import math
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from controlstack.core.schedule import progress_at
from controlstack.core.stack import ControlStack
from controlstack.core.step import Step, Window
from controlstack.core.unit import ControlUnit
from controlstack.models.families.controlnet.model import ControlNetModel
from controlstack.models.naming import to_diffusers
from controlstack.pipelines.attached import arguments
from controlstack.training.recipes.copies import copy_of_encoder
from torch import Tensor, nn

WIDTHS, CONTEXT, HEADS = (64, 128, 256, 256), 768, 8  # a fifth of SD 1.5's
TILE, LATENT = 128, 8  # pixels of a tile, and of a latent pixel
SPREAD = 0.02  # of random weights
TOLERANCE = 1e-3  # ours against diffusers, of the largest value
MMAP_THRESHOLD, PAGES = -3, 1 << 16  # of glibc's mallopt; bytes from which memory is given back at once

Call = Callable[[int], Tensor]  # number of the step -> what the U-Net answers


class Networks:
    """A U-Net and ControlNets of random weights, each in our form and in diffusers'."""

    def __init__(self, most: int, widths: tuple[int, ...] = WIDTHS) -> None:
        from diffusers import ControlNetModel as Theirs
        from diffusers import UNet2DConditionModel

        torch.manual_seed(0)
        self.unet: Any = _filled(
            UNet2DConditionModel(block_out_channels=widths, cross_attention_dim=CONTEXT, attention_head_dim=HEADS)
        )
        self.ours = [_filled(copy_of_encoder(self.unet)) for _ in range(most)]
        self.theirs = [Theirs.from_unet(self.unet, load_weights_from_unet=False).eval() for _ in range(most)]
        for own, other in zip(self.ours, self.theirs, strict=True):
            other.load_state_dict(to_diffusers(own.state_dict()), assign=True)
            other.requires_grad_(False)


class Run:
    """A run of so many units on so many pictures, as calls of one step."""

    def __init__(self, made: Networks, units: int, pictures: int, side: int, frames: int, tiles: int) -> None:
        """frames: as many pictures, each with a hint of its own. tiles: of which a picture is made, a square number."""
        self._made, self._count, self._pictures = made, units, max(pictures, frames)
        across = math.isqrt(tiles)
        self._side = (TILE * across if tiles > 1 else side) // LATENT
        self._tile = self._side // across
        self.hints = [torch.rand(frames, 3, *(LATENT * self._side,) * 2) for _ in range(units)]
        self._context = torch.randn(2 * self._pictures, 77, CONTEXT)
        models = (ControlNetModel(network, name=str(k)) for k, network in enumerate(made.ours))
        self._stack = ControlStack(
            [ControlUnit(model=model, hint=hint) for model, hint in zip(models, self.hints, strict=False)]
        )

    def programs(self) -> dict[str, Call]:
        """Return a step of each program."""
        return {"none": self._bare, "ours": self._ours, "diffusers": self._theirs}

    def _evaluations(self, index: int) -> Iterator[Step]:
        """Yield what a step evaluates: all rows, the uncond ones first, of each tile."""
        generator = torch.Generator().manual_seed(index)
        whole = torch.randn(self._pictures, 4, self._side, self._side, generator=generator)
        for top in range(0, self._side, self._tile):
            for left in range(0, self._side, self._tile):
                x = whole[..., top : top + self._tile, left : left + self._tile].repeat(2, 1, 1, 1)
                yield Step(
                    x=x,
                    timestep=torch.full((len(x),), 999.0 - index),
                    context=self._context,
                    cond=(False,) * self._pictures + (True,) * self._pictures,
                    progress=progress_at(index % 20, 20),
                    window=Window(canvas=(self._side, self._side), top=top, left=left),
                    pictures=tuple(range(self._pictures)) * 2,
                )

    def _bare(self, index: int) -> Tensor:
        unet = self._made.unet
        return torch.stack([unet(s.x, s.timestep, s.context).sample for s in self._evaluations(index)])

    def _ours(self, index: int) -> Tensor:
        unet, found = self._made.unet, list[Tensor]()
        for step in self._evaluations(index):
            more = arguments(unet, self._stack(step), {})
            found.append(unet(step.x, step.timestep, step.context, **more).sample)
        return torch.stack(found)

    def _theirs(self, index: int) -> Tensor:
        """Run a step as the loop of StableDiffusionControlNetPipeline does."""
        from diffusers import MultiControlNetModel

        unet, found = self._made.unet, list[Tensor]()
        peer = MultiControlNetModel(self._made.theirs[: self._count])
        for step in self._evaluations(index):
            assert step.window is not None
            hints = [self._part(hint, step.window) for hint in self.hints]
            skips, middle = peer(
                step.x,
                step.timestep,
                encoder_hidden_states=step.context,
                controlnet_cond=hints,
                conditioning_scale=[1.0] * self._count,
                return_dict=False,
            )
            more = {"down_block_additional_residuals": skips, "mid_block_additional_residual": middle}
            found.append(unet(step.x, step.timestep, step.context, **more).sample)
        return torch.stack(found)

    def _part(self, hint: Tensor, window: Window) -> Tensor:
        """Return a tile's part of a hint, a row for each row of the batch."""
        top, left, side = (LATENT * each for each in (window.top, window.left, self._tile))
        part = hint[..., top : top + side, left : left + side]
        return part.repeat(2 * self._pictures // len(part), 1, 1, 1)


def _filled(network: nn.Module) -> nn.Module:
    """Return a network with random weights; the scales of the norms stay 1."""
    for name, parameter in network.eval().requires_grad_(False).named_parameters():
        parameter.uniform_(-SPREAD, SPREAD)
        if parameter.ndim == 1 and name.endswith("weight"):
            parameter.fill_(1.0)
    return network


def check_same(run: Run) -> None:
    """Raise AssertionError where ours and diffusers' answers differ, or units do nothing."""
    programs = run.programs()
    bare, ours, theirs = (programs[name](0) for name in ("none", "ours", "diffusers"))
    assert (ours - theirs).abs().max() <= TOLERANCE * theirs.abs().max(), "ours and diffusers' answers differ"
    assert not theirs.equal(bare), "the units do nothing"


@torch.no_grad()
def seconds(call: Call, steps: int) -> float:
    """Return CPU time of a step, on average over some."""
    begin = time.process_time()
    for index in range(steps):
        call(index)
    return (time.process_time() - begin) / steps


@torch.no_grad()
def mebibytes(call: Call) -> float:
    """Return how much memory a step takes at most, beyond what is held before it."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    before = memory("self", "VmRSS", reset=True)
    call(0)
    return memory("self", "VmHWM") - before


def give_back_memory() -> None:
    """Have this process and its children (of glibc) give freed memory back at once, so that it is not counted."""
    os.environ["MALLOC_MMAP_THRESHOLD_"] = str(PAGES)
    ctypes.CDLL(None).mallopt(MMAP_THRESHOLD, PAGES)


def memory(process: int | str, field: str, *, reset: bool = False) -> float:
    """Return MiB of a process, of a field of Linux' status. reset: its highest value begins anew."""
    if reset:
        Path(f"/proc/{process}/clear_refs").write_text("5", encoding="ascii")
    status = Path(f"/proc/{process}/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith(field)) / 1024
