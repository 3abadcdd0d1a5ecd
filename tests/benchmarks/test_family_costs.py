"""The goals of docs/performance.md for families, counted from shapes alone."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest

MOST = {
    "union_two_over_two_passes": 0.55,  # two kinds of hints in one pass
    "control_lora_later": 0.36,  # what a ControlNet costs
    "controlnet_later": 0.36,
    "uni_later": 0.36,
    "ip_adapter_later": 0.01,
}
NEVER_ABOVE_THE_PEER = (
    "controlnet", "control_lora", "ctrlora", "ip_adapter", "controlnet_xs", "uni", "union_one", "union_two",
)  # fmt: skip
ENCODED_ONCE = ("controlnet", "ip_adapter", "controlnet_xs", "union_one", "lllite", "control_lora", "ctrlora", "uni")


@pytest.fixture(scope="module")
def numbers(load: Callable[[str], ModuleType]) -> dict[str, float]:
    return load("families").measure(rounds=0)


@pytest.mark.parametrize("name", MOST)
def test_a_goal_is_held(numbers: dict[str, float], name: str) -> None:
    assert 0 < numbers[name] <= MOST[name]


@pytest.mark.parametrize("name", NEVER_ABOVE_THE_PEER)
def test_a_later_step_costs_no_more_than_the_peers(numbers: dict[str, float], name: str) -> None:
    assert 0 < numbers[f"{name}_later"] <= numbers[f"{name}_peer"] * (1 + 1e-6)


def test_a_control_lora_costs_what_a_controlnet_costs(numbers: dict[str, float]) -> None:
    assert numbers["control_lora_later"] == pytest.approx(numbers["controlnet_later"], rel=1e-6)


@pytest.mark.parametrize("name", ENCODED_ONCE)
def test_what_the_hint_alone_tells_is_computed_once(numbers: dict[str, float], name: str) -> None:
    assert numbers[f"{name}_later"] < numbers[f"{name}_first"]
