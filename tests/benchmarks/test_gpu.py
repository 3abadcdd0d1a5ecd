"""The dry run of the GPU's benchmark: it measures, and ours equals diffusers, on small networks and the CPU."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

FILE = Path(__file__).resolve().parents[2] / "benchmarks" / "gpu.py"


@pytest.mark.filterwarnings("ignore")
def test_the_dry_run_compares_and_measures(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.spec_from_file_location("gpu", FILE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "gpu", module)  # where dataclasses look their module up
    spec.loader.exec_module(module)
    found = module.measure(module.TINY, "fp32", torch.device("cpu"), rounds=1)
    assert {f"added_{who}_{count}" for who in ("ours", "diffusers") for count in (1, 2, 3)} <= set(found)
    assert all(found[f"error_{count}"] < 1e-4 for count in (1, 2, 3))
    assert all(found[f"syncs_ours_{count}"] == 0 for count in (1, 2, 3))
