"""From a file to a network: nothing is drawn on the way, and nothing of a program's random numbers is used up."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from controlstack.preprocessors.networks.loading import load_network
from torch import nn


class Layers(nn.Module):
    """Layers that fill themselves in all the ways there are."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.conv, self.table = nn.Linear(8, 8), nn.Conv2d(3, 4, 3), nn.Embedding(5, 6)
        self.attention = nn.MultiheadAttention(8, 2)
        self.free = nn.Parameter(torch.empty(4, 4))
        for fill in ("normal_", "trunc_normal_", "kaiming_normal_", "xavier_normal_", "uniform_"):
            getattr(nn.init, fill)(self.free)


@pytest.mark.parametrize("meta", [True, False])
def test_loading_draws_nothing(meta: bool, tmp_path: Path) -> None:
    drawn: list[bool] = []

    def build() -> nn.Module:
        before = torch.get_rng_state()
        network = Layers()
        drawn.append(not torch.equal(before, torch.get_rng_state()))
        network.register_buffer("table_of_chance", torch.randn(3))  # which no layer does
        return network

    given = build().state_dict()
    torch.save(given, tmp_path / "net.pth")
    before = torch.get_rng_state()
    loaded = load_network(tmp_path / "net.pth", build, meta=meta)
    assert torch.equal(before, torch.get_rng_state())
    assert drawn == [True, False]
    assert all(torch.equal(tensor, given[key]) for key, tensor in loaded.state_dict().items())
