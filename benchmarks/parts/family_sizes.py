"""The base models that `families.py` measures on, at any width and on any device, and a step of ours on them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from controlstack.core.control import ControlModel
from controlstack.core.host import PlainHost
from controlstack.core.network.attach import Patches, attach
from controlstack.core.network.base import BaseWeights
from controlstack.core.schedule import progress_at
from controlstack.core.stack import ControlStack
from controlstack.core.step import Step
from controlstack.core.unit import ControlUnit
from controlstack.models.layers import STANDARD
from controlstack.models.naming import to_ldm
from controlstack.pipelines.attached import locate_in
from torch import Tensor

ROWS, STEPS = 2, 20
HEAD = 64  # channels of SDXL's heads
SPREAD = 0.02  # of random weights
SD15: dict[str, Any] = {
    "block_out_channels": (320, 640, 1280, 1280), "cross_attention_dim": 768, "attention_head_dim": 8,
    "down_block_types": (*("CrossAttnDownBlock2D",) * 3, "DownBlock2D"),
}  # fmt: skip
SD15_UP: dict[str, Any] = {"up_block_types": ("UpBlock2D", *("CrossAttnUpBlock2D",) * 3)}
SDXL: dict[str, Any] = {
    "block_out_channels": (320, 640, 1280), "cross_attention_dim": 2048,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "transformer_layers_per_block": (1, 2, 10), "use_linear_projection": True, "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2816,
}  # fmt: skip
SDXL_UP: dict[str, Any] = {"up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D")}


class Following(PlainHost):
    """A host whose base network has these weights, which nobody changes."""

    def __init__(self, weights: dict[str, Tensor] | None = None) -> None:
        self._weights = BaseWeights((weights or {}).get, "base")

    def follow(self, model: ControlModel) -> bool:
        return model.follow(self._weights)

    def encode(self, picture: Tensor) -> Tensor:
        """Return numbers in the shape of latents, at no cost: a program encodes a hint once, whatever the control."""
        return picture[:, :1, ::8, ::8].expand(-1, 4, -1, -1)


class Size:
    """The base models of a measurement: their widths, the side of their latents, and where they are."""

    def __init__(self, device: str, narrow: int = 1, small: int = 1) -> None:
        """narrow, small: what their widths and their sides are divided by."""
        self.device, self.narrow, self.small = device, narrow, small
        self._kept: dict[str, Any] = {}

    def config(self, xl: bool) -> dict[str, Any]:
        """Return the configuration that a U-Net and a ControlNet share."""
        full = SDXL if xl else SD15
        widths = tuple(each // self.narrow for each in full["block_out_channels"])
        heads = tuple(each // HEAD for each in widths) if xl else full["attention_head_dim"]
        return {**full, "block_out_channels": widths, "attention_head_dim": heads}

    def made(self, build: Callable[[], Any]) -> Any:
        """Build a network where it belongs, with random weights."""
        with torch.device(self.device):
            network = build().eval().requires_grad_(False)
        if self.device != "meta":
            for parameter in network.parameters():
                parameter.normal_(0, SPREAD)
        return network

    def kept(self, name: str, build: Callable[[], Any]) -> Any:
        """Return a network that several cases share."""
        if name not in self._kept:
            self._kept[name] = self.made(build)
        return self._kept[name]

    def side(self, xl: bool) -> int:
        """Return the side of the latents."""
        return (128 if xl else 64) // self.small

    def unet(self, xl: bool = False, own: bool = False) -> Any:
        """Return diffusers' U-Net, which cases share unless it is one's own."""
        from diffusers import UNet2DConditionModel

        def build() -> Any:
            return UNet2DConditionModel(**self.config(xl), **(SDXL_UP if xl else SD15_UP))

        return self.made(build) if own else self.kept(f"unet {xl}", build)

    def tensor(self, *shape: int) -> Tensor:
        """Return random numbers."""
        return torch.randn(*shape, device=self.device)

    def step(self, xl: bool, context: Tensor, index: int) -> Step:
        """Return one evaluation of the base network."""
        x, times = self.tensor(ROWS, 4, self.side(xl), self.side(xl)), torch.full((ROWS,), 321.0, device=self.device)
        y = self.tensor(ROWS, 2816) if xl else None
        return Step(x=x, timestep=times, context=context, cond=(False, True), progress=progress_at(index, STEPS), y=y)

    def hint(self, xl: bool) -> Tensor:
        """Return a hint, 8 pixels for each latent pixel."""
        return torch.zeros(1, 3, 8 * self.side(xl), 8 * self.side(xl), device=self.device)

    def conditions(self, xl: bool) -> dict[str, Any]:
        """Return the further arguments of diffusers' networks."""
        added = {"text_embeds": self.tensor(ROWS, 1280), "time_ids": self.tensor(ROWS, 6)}
        return {"added_cond_kwargs": added} if xl else {}


def wrapped(family: Any, state: dict[str, Tensor]) -> Any:
    """Return the control model of weights, as a file that holds them is loaded."""
    given = family.settings()
    named = family.rename(state)
    shapes = {name: tuple(each.shape) for name, each in named.items()}
    with torch.device("meta"):
        network = family.create(shapes, given, STANDARD)
    family.fill(network, {name: named[name] for name in family.in_file(network, shapes)})
    network.to(next(iter(state.values())).device)
    return family.wrap(network.eval(), family.id, given, None)


def stepping(size: Size, xl: bool, unit: ControlUnit, unet: Any = None, tokens: int = 77) -> Callable[[int], object]:
    """Return a step of ours, with the U-Net in it if there is one."""
    weights = None if unet is None and not unit.model.follows else to_ldm(dict((unet or size.unet(xl)).state_dict()))
    stack = ControlStack([unit], Following(weights))
    context = size.tensor(ROWS, tokens, size.config(xl)["cross_attention_dim"])

    def run(index: int) -> object:
        step = size.step(xl, context, index)
        effects = stack(step)
        if unet is None:
            return effects
        with Patches() as patches:
            attach(patches, effects, locate_in(unet))
            return unet(step.x, step.timestep, context, **size.conditions(xl)).sample

    return run


def bare(size: Size, xl: bool) -> Callable[[], object]:
    """Return a step of the bare U-Net."""
    unet, context = size.unet(xl), size.tensor(ROWS, 77, 2048 if xl else 768)

    def run() -> object:
        step = size.step(xl, context, 0)
        return unet(step.x, step.timestep, context, **size.conditions(xl)).sample

    return run
