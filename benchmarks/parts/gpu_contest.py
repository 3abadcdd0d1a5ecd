"""What `gpu.py` compares: a U-Net, ours and diffusers', on one copy of random weights, each as a call of one step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from controlstack.core.reuse.said import OFF, Reuse
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
        self.stacks = {count: ControlStack(self.units(count)) for count in COUNTS}

    def units(self, count: int, kind: type[ControlNetModel] = ControlNetModel, reuse: Reuse = OFF) -> list[ControlUnit]:
        """Return so many units on different networks. kind: of their models."""
        models = [kind(network, name=str(k)) for k, network in enumerate(self.networks[:count])]
        return [ControlUnit(model=model, hint=self.hint, reuse=reuse) for model in models]

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
            steps=STEPS,
        )

    def _timestep(self, index: int) -> Tensor:
        return torch.full((ROWS,), 981 - 50 * (index % STEPS), device=self.device)

    def bare(self, index: int) -> Tensor:
        return self.unet(self.x, self._timestep(index), self.context, **self.added).sample

    def ours(self, count: int, index: int) -> Tensor:
        return self.under(self.stacks[count], index)

    def under(self, stack: ControlStack, index: int) -> Tensor:
        """Draw a step under the units of a stack, as the pipeline's hook does."""
        more = arguments(self.unet, stack(self.step(index)), {})
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
