"""What the proofs of all families share: random weights, a step to compute, and the relative error to an oracle.

A proof builds a tiny network of somebody else's class with `randomise`, saves its weights as a file, loads that as
ours, and compares what both compute with `assert_close`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from controlstack.core.control import ControlModel
from controlstack.core.schedule import progress_at
from controlstack.core.stack import ControlStack
from controlstack.core.step import Step
from controlstack.core.unit import ControlUnit
from torch import Tensor, nn

TOLERANCE = 1e-5  # of the largest value, fp32
PICTURES, SIDE, TOKENS = 2, 16, 8  # of a step: pictures, latent pixels on a side, tokens of a prompt

Network = TypeVar("Network", bound=nn.Module)


def randomise(network: Network, seed: int = 0) -> Network:
    """Fill every parameter, so that no zero convolution hides an error."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        parameter.data.normal_(0, 0.05, generator=generator)
    return network.eval().requires_grad_(False)


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    """Return the largest difference as a share of the oracle's largest value, which is not 0."""
    assert ours.shape == theirs.shape
    assert theirs.abs().max() > 0, "the oracle answers with zeros, which proves nothing"
    return float((ours - theirs).abs().max() / theirs.abs().max())


def assert_close(ours: Tensor, theirs: Tensor, tolerance: float = TOLERANCE) -> None:
    """Assert that ours is the oracle's answer up to rounding."""
    assert relative_error(ours, theirs) <= tolerance


def step_of(net: Any, seed: int = 0, *, time: int = 321) -> tuple[Step, dict[str, Any]]:
    """Return a step of two pictures, uncond and cond rows, and the further arguments that diffusers' networks take.

    net: a network of diffusers, whose configuration says what conditions it reads.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = 2 * PICTURES

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    more: dict[str, Any] = {}
    y = None
    if net.config.addition_embed_type == "text_time":
        width = net.config.addition_time_embed_dim
        pooled = net.config.projection_class_embeddings_input_dim - 6 * width
        added = {"text_embeds": normal(rows, pooled), "time_ids": normal(rows, 6)}
        more = {"added_cond_kwargs": added}
        y = torch.cat([added["text_embeds"], net.add_time_proj(added["time_ids"].flatten()).reshape(rows, -1)], 1)
    step = Step(
        x=normal(rows, 4, SIDE, SIDE),
        timestep=torch.full((rows,), time),
        context=normal(rows, TOKENS, net.config.cross_attention_dim),
        cond=(False,) * PICTURES + (True,) * PICTURES,
        progress=progress_at(0, 1),
        y=y,
        pictures=tuple(row % PICTURES for row in range(rows)),
    )
    return step, more


def residuals_of(model: ControlModel, step: Step, hint: Tensor, **unit: Any) -> list[Tensor]:
    """Return what one unit adds at every point, in the order of diffusers: the encoder's blocks, then the middle."""
    return stacked([ControlUnit(model=model, hint=hint, **unit)], step)


def stacked(units: Sequence[ControlUnit], step: Step) -> list[Tensor]:
    """Return what several units add together."""
    effects = ControlStack(units)(step)
    return [tensor for tensor in (*effects.input, *effects.output, *effects.middle) if tensor is not None]
