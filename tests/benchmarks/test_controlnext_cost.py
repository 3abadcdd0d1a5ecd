"""ControlNeXt's published counts, and the goals of docs/performance.md, from shapes alone."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest

MILLIONS = {  # table 1 of the paper
    "sd15_base": 859,
    "sd15_total": 865,
    "sd15_learnable": 30,
    "sd15_controlnet_total": 1220,
    "sd15_controlnet_learnable": 361,
    "sdxl_base": 2567,
    "sdxl_total": 2573,
    "sdxl_learnable": 108,
    "sdxl_controlnet_total": 3818,
    "sdxl_controlnet_learnable": 1251,
}
MOST = {"added_flops_controlnet": 0.31, "first_flops_controlnext": 0.07, "added_flops_controlnext": 0.02}


@pytest.fixture(scope="module")
def numbers(load: Callable[[str], ModuleType]) -> dict[str, float]:
    return load("controlnext").measure()


@pytest.mark.parametrize("name", MILLIONS)
def test_parameters_are_those_of_the_paper(numbers: dict[str, float], name: str) -> None:
    assert abs(numbers[name] / 1e6 - MILLIONS[name]) < 1  # which cuts some and rounds others


@pytest.mark.parametrize("name", MOST)
def test_a_goal_is_held(numbers: dict[str, float], name: str) -> None:
    assert 0 < numbers[name] <= MOST[name]
