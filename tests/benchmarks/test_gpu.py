"""The dry run of the GPU's benchmark: it measures, and ours equals diffusers, on small networks and the CPU."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest
import torch


@pytest.fixture(scope="module")
def gpu(load: Callable[[str], ModuleType]) -> ModuleType:
    return load("gpu")


@pytest.mark.filterwarnings("ignore")
def test_the_dry_run_compares_and_measures(gpu: ModuleType) -> None:
    budget = gpu.Budget(1000)
    found = gpu.measure(gpu.TINY, "fp32", torch.device("cpu"), rounds=1, budget=budget)
    assert {f"added_{who}_{count}" for who in ("ours", "diffusers") for count in (1, 2, 3)} <= set(found)
    assert all(found[f"error_{count}"] < 1e-4 for count in (1, 2, 3))
    assert all(found[f"syncs_ours_{count}"] == 0 for count in (1, 2, 3))
    assert {"added_run_exact", "added_run_light", "added_run_strong", "added_beside_2", "added_beside_3"} <= set(found)
    assert {"added_compiled_ours_1", "added_compiled_diffusers_1", "ms_compiled_bare", "fits_12_gib"} <= set(found)
    assert budget.left_out == []


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_every_way_draws_the_same(gpu: ModuleType) -> None:
    ways, device = gpu.gpu_ways, torch.device("cpu")
    contest = gpu.Contest(gpu.TINY, torch.float32, device)
    wanted = [contest.ours(3, index) for index in range(2)]
    side_by_side = ways.ControlStack(contest.units(3, ways.AnySize), beside=True)
    assert [contest.under(side_by_side, index).allclose(wanted[index], atol=1e-4) for index in range(2)] == [True] * 2
    offloading = ways.ControlStack(contest.units(3), ways.Offloading(device))
    assert contest.under(offloading, 0).allclose(wanted[0], atol=1e-4)


def test_what_does_not_begin_in_time_is_named(gpu: ModuleType) -> None:
    budget = gpu.Budget(0)
    assert not budget.allows("compiled of sdxl-1024 fp16", 90)
    assert budget.left_out == ["compiled of sdxl-1024 fp16"]
    assert gpu.SECONDS < 8 * 60
