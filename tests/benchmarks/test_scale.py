"""The benchmark of scale on a tiny base: units, pictures and sides cost what they should, with no surprise."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from xml.etree import ElementTree

import pytest
import torch

Rows = dict[str, list[dict[str, float]]]
TINY = {
    "block_out_channels": (32, 64),
    "cross_attention_dim": 16,
    "attention_head_dim": 4,
    "norm_num_groups": 8,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
}


@pytest.fixture(scope="module")
def benchmark(load: Callable[[str], ModuleType]) -> ModuleType:
    return load("scale")


@pytest.fixture(scope="module")
def found(benchmark: ModuleType) -> Rows:
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel(**TINY)
    return benchmark.measure(benchmark.Scale(unet, most=3), units=(1, 3), pictures=(1, 4), sides=(64, 128))


def test_units_and_pictures_cost_in_proportion(found: Rows) -> None:
    for name, factor in (("units", 3), ("pictures", 4)):
        one, more = (row["added"] for row in found[name])
        assert more == pytest.approx(factor * one, rel=1e-9)


def test_a_side_costs_as_in_the_base(found: Rows) -> None:
    small, large = found["side"]
    assert large["added"] > 3.9 * small["added"]
    assert large["share"] == pytest.approx(small["share"], rel=0.2)


def test_memory_grows_with_pictures_and_not_with_units(found: Rows) -> None:
    """Of the sums and one unit's own; diffusers' holds the hint encoder's activations as well."""
    (one, three), (single, four) = found["units"], found["pictures"]
    assert single["memory"] < three["memory"] < 1.2 * one["memory"]
    assert four["memory"] == pytest.approx(4 * single["memory"], rel=1e-3)
    assert all(row["memory"] < row["peer_memory"] for rows in found.values() for row in rows)


def test_memory_of_a_side_is_that_of_its_pixels(found: Rows) -> None:
    small, large = found["side"]
    assert large["memory"] == pytest.approx(4 * small["memory"], rel=0.01)


def test_the_curves_are_drawn(benchmark: ModuleType, found: Rows) -> None:
    drawn = ElementTree.fromstring(benchmark.plot(found))
    assert len(list(drawn.iter("{http://www.w3.org/2000/svg}polyline"))) == 3
