"""The dry run of the GPU's benchmark: it measures, and ours equals diffusers, on small networks and the CPU."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest
import torch


@pytest.mark.filterwarnings("ignore")
def test_the_dry_run_compares_and_measures(load: Callable[[str], ModuleType]) -> None:
    module = load("gpu")
    found = module.measure(module.TINY, "fp32", torch.device("cpu"), rounds=1)
    assert {f"added_{who}_{count}" for who in ("ours", "diffusers") for count in (1, 2, 3)} <= set(found)
    assert all(found[f"error_{count}"] < 1e-4 for count in (1, 2, 3))
    assert all(found[f"syncs_ours_{count}"] == 0 for count in (1, 2, 3))
