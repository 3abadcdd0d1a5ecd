"""The benchmark of networks beside each other: all ways compute the same, with the same arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest
import torch

NAME = "tiny world, 64 px"


@pytest.fixture(scope="module")
def benchmark(load: Callable[[str], ModuleType]) -> ModuleType:
    return load("side_by_side")


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_all_ways_give_the_same_numbers(benchmark: ModuleType, count: int) -> None:
    contest = benchmark.Contest(benchmark.SIZES[NAME], count, torch.device("cpu"), torch.float32)
    first, second = contest.networks[0].zero_convs[0][0].weight, contest.networks[1].zero_convs[0][0].weight
    assert not first.equal(second)
    found = benchmark.errors(contest)
    assert set(found) == {benchmark.VMAP, benchmark.GROUPED}
    assert max(found.values()) < 1e-5


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_no_way_saves_arithmetic(benchmark: ModuleType, count: int) -> None:
    size = benchmark.SIZES[NAME]
    found = benchmark.flops(size, count)
    assert found[benchmark.VMAP] == found[benchmark.GROUPED] == found[benchmark.ONE] > 0
    assert found[benchmark.ONE] * 2 == benchmark.flops(size, 2)[benchmark.ONE] * count


def test_weights_are_held_once(benchmark: ModuleType) -> None:
    contest = benchmark.Contest(benchmark.SIZES[NAME], 2, torch.device("cpu"), torch.float32)
    for name, stacked in contest.grouped.named_parameters():
        for number, network in enumerate(contest.networks):
            assert network.get_parameter(name).data_ptr() == stacked[number].data_ptr()


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_a_row_says_what_was_measured(benchmark: ModuleType) -> None:
    (row,) = benchmark.measure([NAME], [2], [torch.get_num_threads()], 1, torch.device("cpu"))
    assert (row["size"], row["networks"]) == (NAME, 2)
    assert row["ms"] > 0 and row[benchmark.VMAP] > 0 and row[benchmark.GROUPED] > 0
