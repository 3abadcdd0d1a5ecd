"""What the WebUI is asked for: its modules are stood in for, since they exist only inside it."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from controlstack.scripts.webui.host.webui import WebUI
from torch import nn


def host(monkeypatch: pytest.MonkeyPatch, *, fp8: bool = False, takes_turns: bool | None = False) -> WebUI:
    modules = ModuleType("modules")
    cpu = torch.device("cpu")
    devices = SimpleNamespace(
        device=cpu,
        cpu=cpu,
        fp8=fp8,
        without_autocast=nullcontext,
        dtype_inference=torch.float16,
        dtype_unet=torch.float8_e4m3fn if fp8 else torch.float32,
    )
    model = SimpleNamespace() if takes_turns is None else SimpleNamespace(lowvram=takes_turns)
    vars(modules).update(devices=devices, shared=SimpleNamespace(sd_model=model))
    monkeypatch.setitem(sys.modules, "modules", modules)
    return WebUI()


@pytest.mark.parametrize(("takes_turns", "saves"), [(True, True), (False, False), (None, False)])
def test_the_loaded_checkpoint_says_whether_memory_is_scarce(
    monkeypatch: pytest.MonkeyPatch, takes_turns: bool | None, saves: bool
) -> None:
    """Not the flags: `--medvram-sdxl` means some checkpoints and not others."""
    assert host(monkeypatch, takes_turns=takes_turns).saves_memory is saves


@pytest.mark.parametrize(("fp8", "dtype"), [(False, torch.float32), (True, torch.float16)])
def test_weights_in_8_bits_compute_in_16(monkeypatch: pytest.MonkeyPatch, fp8: bool, dtype: torch.dtype) -> None:
    assert host(monkeypatch, fp8=fp8).dtype is dtype


def test_a_network_computes_in_its_own_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the WebUI casts around it, as it does on a CPU whose base model is stored in 8 bits."""
    network = nn.Linear(4, 4)
    model: Any = SimpleNamespace(network=network)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert network(torch.ones(1, 4)).dtype is torch.bfloat16
        with host(monkeypatch).ready(model):
            assert network(torch.ones(1, 4)).dtype is torch.float32
