"""The benchmark of growth without its clock: all programs draw the same, and what is made of numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import pytest
import torch

ONE = {"units": 1, "pictures": 1, "side": 64, "frames": 1, "tiles": 1}


@pytest.fixture(scope="module")
def benchmark(load: Callable[[str], ModuleType]) -> ModuleType:
    return load("growth")


@pytest.fixture(scope="module")
def networks(benchmark: ModuleType) -> Any:
    return benchmark.inside.Networks(2, widths=(32, 32, 32, 32))


@torch.no_grad()
@pytest.mark.parametrize("axis", [{"units": 2}, {"pictures": 2}, {"side": 128}, {"frames": 2}, {"tiles": 4}], ids=str)
def test_ours_and_diffusers_compute_the_same(benchmark: ModuleType, networks: Any, axis: dict[str, int]) -> None:
    """Tiles are 64 pixels here, so that they are seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(benchmark.inside, "TILE", 64)
        run = benchmark.inside.Run(networks, **{**ONE, **axis})
        benchmark.inside.check_same(run)
        answers = run.programs()["ours"](1)
    tiles, pictures = axis.get("tiles", 1), max(axis.get("pictures", 1), axis.get("frames", 1))
    side = axis.get("side", 64) // 8
    assert answers.shape == (tiles, 2 * pictures, 4, side, side)


def rows(axis: str, values: tuple[int, ...], power: float) -> list[dict[str, Any]]:
    """Bare steps of one second, to which ours add a tenth and diffusers' two, by a power of the value."""
    found = []
    for value in values:
        added = {"ours": 0.1 * value**power, "diffusers": 0.2 * value**power}
        seconds = {"none": 1.0, **{name: 1 + share for name, share in added.items()}}
        found.append({"axis": axis, "value": value, "seconds": seconds, "time": added, "memory": added})
    return found


@pytest.mark.parametrize("power", [1.0, 2.0])
def test_an_exponent_is_that_of_what_is_added(benchmark: ModuleType, power: float) -> None:
    found = benchmark.exponents(rows("units", (1, 2, 5, 10), power))["units"]
    assert found["ours"] == pytest.approx(power) and found["diffusers"] == pytest.approx(power)
    assert found["none"] == pytest.approx(0)


def test_no_exponent_where_nothing_was_added(benchmark: ModuleType) -> None:
    assert math.isnan(benchmark.slope((1, 2), (0.0, 1.0)))
    assert math.isnan(benchmark.slope((1,), (1.0,)))


def test_each_axis_has_its_lines_and_its_panel(benchmark: ModuleType) -> None:
    both = [*rows("units", (1, 3), 1.0), *rows("side", (128, 256), 1.0)]
    lines = benchmark.as_markdown(both, benchmark.exponents(both)).splitlines()
    assert len(lines) == 2 + 2 * (2 + 1) and {line.count("|") for line in lines} == {7}
    drawn = ElementTree.fromstring(benchmark.plot(both))
    assert len(list(drawn.iter("{http://www.w3.org/2000/svg}polyline"))) == 4
