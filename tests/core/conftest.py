"""Tiny real control networks with random, non-zero weights."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from controlstack.core.schedule import progress_at
from controlstack.core.step import Step
from controlstack.models.families.controlnet.config import Block, ControlNetConfig
from controlstack.models.families.controlnet.model import ControlNetModel
from controlstack.models.families.controlnet.network import ControlNet

CONFIG = ControlNetConfig(
    channels=32,
    blocks=(Block(32, 1), Block(32, down=True), Block(64, 1)),
    middle_depth=1,
    context=16,
    heads=4,
    groups=8,
)


def random_model(seed: int = 0, config: ControlNetConfig = CONFIG, **options: bool) -> ControlNetModel:
    """A ControlNet in which no weight is zero, so that every residual depends on every input."""
    generator = torch.Generator().manual_seed(seed)
    network = ControlNet(config).eval().requires_grad_(False)
    for parameter in network.parameters():
        scale = 0.2 if parameter.ndim > 1 else 1.0
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale / parameter[0].numel() ** 0.5)
    return ControlNetModel(network, name=f"random-{seed}", **options)


def make_step(index: int = 0, count: int = 4, rows: int = 4, seed: int = 7, size: int = 8) -> Step:
    """Two pictures, uncond rows first, at step `index`."""
    generator = torch.Generator().manual_seed(seed)
    return Step(
        x=torch.randn(rows, 4, size, size, generator=generator),
        timestep=torch.full((rows,), 900 - 100 * index),
        context=torch.randn(rows, 5, 16, generator=generator),
        cond=tuple(row >= rows // 2 for row in range(rows)),
        progress=progress_at(index, count, noise=index / count),
    )


@pytest.fixture
def model() -> ControlNetModel:
    return random_model()


@pytest.fixture
def calls(model: ControlNetModel) -> dict[str, int]:
    """How often parts of `model` run."""
    counts = {"hint": 0, "trunk": 0, "keys": 0, "middle": 0}
    parts: dict[str, torch.nn.Module] = {
        "hint": model.network.input_hint_block,
        "trunk": model.network.input_blocks[0][0],  # type: ignore[index]
        "keys": model.network.input_blocks[1][1].transformer_blocks[0].attn2.to_k,  # type: ignore[index, union-attr]
        "middle": model.network.middle_block_out,
    }
    for name, part in parts.items():
        part.register_forward_hook(_counter(counts, name))
    return counts


def _counter(counts: dict[str, int], name: str) -> Callable[..., None]:
    def count(*_: object) -> None:
        counts[name] += 1

    return count


@pytest.fixture(name="make_model")
def make_model_fixture() -> Callable[..., ControlNetModel]:
    return random_model


@pytest.fixture(name="make_step")
def make_step_fixture() -> Callable[..., Step]:
    return make_step


@pytest.fixture
def hint() -> torch.Tensor:
    return torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(3))
