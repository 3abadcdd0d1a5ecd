"""The benchmark of reuse at a toy size: what it counts, and that what it calls loss is one."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from xml.etree import ElementTree

import numpy as np
import pytest
from controlstack.core.reuse.said import Extent, Level, Reuse

MOST = {"light": 0.5, "strong": 0.33}  # goals of docs/performance.md, in 20 steps
LEVELS = {level.value: Reuse(level=level) for level in Level}


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


@pytest.fixture(scope="module")
def flops(cost: ModuleType) -> dict[Extent, float]:
    found: dict[Extent, float] = cost.extent_flops()
    return found


@pytest.mark.parametrize("level", MOST)
def test_flops_of_a_level_reach_the_goal(flops: dict[Extent, float], level: str) -> None:
    cost = sum(flops[LEVELS[level].extent(index, 20)] for index in range(20)) / 20
    assert MOST[level] - 0.02 < cost <= MOST[level]


def test_a_step_that_adds_again_costs_no_flops_and_a_shallow_one_a_part(flops: dict[Extent, float]) -> None:
    assert (flops[Extent.NOTHING], flops[Extent.WHOLE]) == (0, 1)
    assert flops[Extent.SHALLOW] == pytest.approx(0.624, abs=0.001)


def test_a_loss_is_what_a_wrong_reuse_does(losses: ModuleType) -> None:
    """The first step's residuals alone are no control of a whole picture; every step is no loss at all."""
    world = losses.World(2)
    assert world.loss(("color",), Reuse(steps=tuple(range(6))), 6, "ddim") == (0, 0)
    assert world.loss(("color",), Reuse(steps=(0,)), 6, "ddim").value > 0.02
    assert world.loss_and_change(("color",), Reuse(steps=tuple(range(6))), 6, "ddim", 6) == ((0, 0), (0, 0))
    few, many = (
        world.loss_and_change(("color",), Reuse(steps=(0, 1), shallow=frozenset({1})), 6, "ddim", points)[1].value
        for points in (1, 13)
    )
    assert few > many > 0.01


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


def test_the_comparison_of_blocks_has_a_line_for_each_schedule(benchmark: ModuleType) -> None:
    numbers = {"value": 0.001, "noise": 0.0002, "change": 0.01, "change_noise": 0.003}
    row = {"computed": 8, "whole_every": 1, "size": "half size", "cost": 0.4}
    row |= dict.fromkeys(("canny", "depth", "color"), numbers)
    head, _, whole, shallow = benchmark.blocks_as_markdown([row, {**row, "whole_every": 2}]).splitlines()
    assert head.count("|") == whole.count("|")
    assert whole.startswith("| 8, all whole | 0.400 | 1.00 ± 0.30 | 0.10 ± 0.02 |")
    assert shallow.startswith("| 8, 1 of 2 whole, else to half size | 0.400 |")
