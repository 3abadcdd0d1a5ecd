"""Control networks under `torch.compile`: dynamo follows a forward to its end, and answers stay.

dynamo alone is tried, by its backend that compiles nothing, so no compiler is needed.
"""

from __future__ import annotations

import pytest
import torch
from controlstack.core.network.rows import Twins
from controlstack.core.schedule import progress_at
from controlstack.core.step import Step
from controlstack.models.families.controlnet.config import Block, ControlNetConfig
from controlstack.models.families.controlnet.model import ControlNetModel
from controlstack.models.families.controlnet.network import ControlNet
from torch import Tensor

CONFIG = ControlNetConfig(
    channels=32, blocks=(Block(32, 1), Block(32, down=True)), middle_depth=1, context=16, heads=4, groups=8
)


@pytest.fixture
def model() -> ControlNetModel:
    torch.compiler.reset()
    torch.manual_seed(0)
    network = ControlNet(CONFIG).eval().requires_grad_(False)
    for parameter in network.parameters():
        parameter.normal_(std=0.1)
    return ControlNetModel(network, name="tiny")


def step(size: int) -> Step:
    x, context = torch.randn(1, 4, size, size).repeat(2, 1, 1, 1), torch.randn(2, 5, 16)
    return Step(x=x, timestep=torch.ones(2), context=context, cond=(False, True), progress=progress_at(0, 1))


def test_a_forward_is_one_graph_for_every_size(model: ControlNetModel) -> None:
    """Also where the rows of a picture are one row until the prompt sets them apart."""
    graphs: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, _: object) -> torch.fx.GraphModule:
        graphs.append(graph)
        return graph

    def residuals(x: Tensor, features: Tensor, context: Tensor) -> list[Tensor]:
        prompt, twins = model.network.project(context), Twins((0,), (0, 0))
        found = model.network.residuals(x, torch.ones(2), (features,), prompt, None, model.points, twins)
        return [tensor for _, tensor in found]

    compiled = torch.compile(residuals, backend=backend, fullgraph=True)
    for size in (8, 12):
        now = step(size)
        (features,) = model.prepare(torch.rand(1, 3, 8 * size, 8 * size))
        wanted = residuals(now.x, features, now.context)
        for sized in (now.x, features):
            torch._dynamo.mark_dynamic(sized, (2, 3))
        for one, other in zip(compiled(now.x, features, now.context), wanted, strict=True):
            assert one.allclose(other, atol=1e-5)
    assert len(graphs) == 1


def test_blocks_compiled_alone_keep_their_answers(model: ControlNetModel) -> None:
    """Regional compilation: each layer by itself, without a break."""
    now = step(8)
    prepared, prompt = model.prepare(torch.rand(1, 3, 64, 64)), model.encode(now.context)

    def residuals() -> list[Tensor]:
        return [tensor for _, tensor in model(now, prepared, prompt, model.points)]

    wanted = residuals()
    for block in (*model.network.input_blocks, model.network.middle_block):
        for layer in block:  # type: ignore[attr-defined]
            layer.compile(backend="eager", fullgraph=True)
    assert all(one.allclose(other, atol=1e-5) for one, other in zip(residuals(), wanted, strict=True))
