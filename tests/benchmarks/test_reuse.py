"""The benchmark of reuse at a toy size: what it counts, and that what it calls loss is one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import ModuleType
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from controlstack.core.reuse.said import Reuse
from controlstack.models.families.controlnet.model import ControlNetModel

MOST = {"light": 0.65, "strong": 0.45}  # goals of docs/performance.md, in 20 steps


@pytest.fixture(scope="module")
def benchmark(load: Callable[[str], ModuleType]) -> ModuleType:
    return load("reuse")


@pytest.fixture(scope="module")
def cost(load: Callable[[str], ModuleType]) -> ModuleType:
    return load("parts.reuse_cost")


@pytest.fixture(scope="module")
def losses(load: Callable[[str], ModuleType]) -> ModuleType:
    return load("parts.reuse_loss")


def test_noise_is_the_standard_error_over_the_scenes(losses: ModuleType) -> None:
    exact, found = np.array([0.4, 0.6, 0.5, 0.5]), np.array([0.5, 0.5, 0.5, 0.5])
    loss = losses._loss("depth_error", exact, found)
    assert loss.value == pytest.approx(0)
    assert loss.noise == pytest.approx((0.02 / 3) ** 0.5 / 2 / 0.5)


@pytest.mark.parametrize("level", MOST)
def test_flops_are_those_of_the_computed_steps(cost: ModuleType, level: str) -> None:
    """Counted on one block of the network, whose share of the steps is that of the whole."""
    with torch.device("meta"):
        network = cost.network()
        hint, context = torch.rand(1, 3, 256, 256), torch.randn(2, 77, 768)
        blocks = (1.0, *(0.0,) * 12)  # the network stops behind its first block
        unit = cost.MetaUnit(model=ControlNetModel(network, name="meta"), hint=hint, block_weights=blocks)
        run = cost.steps(20, context)
        exact = cost.flops(unit, run)
        ratio = cost.flops(replace(unit, reuse=cost.LEVELS[level]), run) / exact
        every = cost.flops(replace(unit, reuse=Reuse(steps=tuple(range(20)))), run) / exact
    assert ratio > 0.1
    ran = len([step for step in range(20) if cost.LEVELS[level].computes(step, 20)])
    assert ran / 20 <= MOST[level]
    assert every == 1


def test_a_loss_is_what_a_wrong_reuse_does(losses: ModuleType) -> None:
    """The first step's residuals alone are no control of a whole picture; every step is no loss at all."""
    world = losses.World(2)
    assert world.loss(("color",), Reuse(steps=tuple(range(6))), 6, "ddim") == (0, 0)
    assert world.loss(("color",), Reuse(steps=(0,)), 6, "ddim").value > 0.02


def test_the_curve_is_drawn(benchmark: ModuleType) -> None:
    found = {"curve": [{"cost": 0.3, "loss": 0.02}, {"cost": 0.6, "loss": -0.001}]}
    found |= {f"{name}_{what}": 0.5 for name in ("light", "strong") for what in ("flops", "loss")}
    drawn = ElementTree.fromstring(benchmark.plot(found))
    words = [each.text for each in drawn.iter("{http://www.w3.org/2000/svg}text")]
    assert "light" in words and "strong" in words


def test_the_table_has_a_line_for_units_and_steps(benchmark: ModuleType) -> None:
    rows = [
        {
            "units": units,
            "steps": 10,
            "sampler": sampler,
            "light_loss": 0.001 * units,
            "strong_loss": 0.02,
            "light_noise": 0.0004,
            "strong_noise": 0.01,
        }
        for units in (1, 2)
        for sampler in ("ddim", "heun")
    ]
    assert benchmark.as_markdown(rows).splitlines()[0].count("|") == 7
    assert benchmark.as_markdown(rows).splitlines()[2:] == [
        "| 1 | 10 | 0.10 ± 0.04 | 2.00 ± 1.00 | 0.10 ± 0.04 | 2.00 ± 1.00 |",
        "| 2 | 10 | 0.20 ± 0.04 | 2.00 ± 1.00 | 0.20 ± 0.04 | 2.00 ± 1.00 |",
    ]
