"""The goals of docs/performance.md that no machine can blur: FLOPs, operations, bytes, from shapes alone."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest

MOST = {  # name -> the largest value that is good enough
    "overhead_1": 0.302,
    "overhead_2": 0.604,
    "overhead_3": 0.905,
    "overhead_cond_only": 0.17,
    "idle_ops": 0,
    "hint_encodes": 1,
    "maps_above_set_1": 1,
    "maps_above_set_2": 1,
    "maps_above_set_3": 1,
}


@pytest.fixture(scope="module")
def numbers(load: Callable[[str], ModuleType]) -> dict[str, float]:
    return load("step_cost").measure()


@pytest.mark.parametrize("name", MOST)
def test_a_goal_is_held(numbers: dict[str, float], name: str) -> None:
    assert numbers[name] <= MOST[name]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_peer_costs_more(numbers: dict[str, float], count: int) -> None:
    assert 0 < numbers[f"overhead_{count}"] < numbers[f"peer_overhead_{count}"]
