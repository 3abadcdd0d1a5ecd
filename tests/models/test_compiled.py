"""Units under `torch.compile`: dynamo follows a network's forward to its end without a break.

dynamo alone is tried, by its backend that compiles nothing, so no compiler is needed.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from controlstack.core.network.rows import Twins
from controlstack.core.schedule import progress_at
from controlstack.core.step import Step
from controlstack.models.families.controlnet import Block, ControlNet, ControlNetConfig, ControlNetModel
from torch import Tensor

CONFIG = ControlNetConfig(
    channels=32,
    blocks=(Block(32, 1), Block(32, down=True), Block(64, 1)),
    middle_depth=1,
    context=16,
    heads=4,
    groups=8,
)


@pytest.fixture
def model() -> ControlNetModel:
    torch.manual_seed(0)
    network = ControlNet(CONFIG).eval().requires_grad_(False)
    for parameter in network.parameters():
        parameter.normal_(std=0.1)
    return ControlNetModel(network, name="tiny")


def step(size: int) -> Step:
    x, context = torch.randn(1, 4, size, size).repeat(2, 1, 1, 1), torch.randn(2, 5, 16)
    return Step(x=x, timestep=torch.ones(2), context=context, cond=(False, True), progress=progress_at(0, 1))


@pytest.mark.parametrize("twins", [None, Twins((0,), (0, 0))], ids=["all rows", "one row until the prompt"])
def test_a_forward_has_no_graph_break(model: ControlNetModel, twins: Twins | None) -> None:
    def residuals(x: Tensor, features: Tensor, context: Tensor) -> list[Tensor]:
        time, network = torch.ones(2), model.network
        found = network.residuals(x, time, features, network.project(context), None, model.points, twins)
        return [tensor for _, tensor in found]

    torch.compiler.reset()
    compiled = torch.compile(residuals, backend="eager", fullgraph=True, dynamic=True)
    for size in (8, 12):  # of another shape, the same graph
        now = step(size)
        (features,) = model.prepare(torch.rand(1, 3, 8 * size, 8 * size))
        wanted = residuals(now.x, features, now.context)
        found: list[Tensor] = compiled(now.x, features, now.context)
        assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(found, wanted, strict=True))


def test_blocks_compiled_alone_keep_their_answers(model: ControlNetModel) -> None:
    """Regional compilation, as ComfyUI's nodes and diffusers' `compile_repeated_blocks` do it to a base network."""
    now = step(8)
    prepared, prompt = model.prepare(torch.rand(1, 3, 64, 64)), model.encode(now.context)
    call: Callable[[], list[Tensor]] = lambda: [  # noqa: E731
        tensor for _, tensor in model(now, prepared, prompt, model.points)
    ]
    wanted = call()
    torch.compiler.reset()
    for block in (*model.network.input_blocks, model.network.middle_block):
        for layer in block:  # type: ignore[attr-defined]
            layer.compile(backend="eager", fullgraph=True, dynamic=True)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(call(), wanted, strict=True))
