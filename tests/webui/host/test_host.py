"""What the WebUI is asked for: its modules are stood in for, since they exist only inside it."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from controlstack.core.stack import ControlStack
from controlstack.core.step import no_attention, no_second_evaluation
from controlstack.core.unit import ControlUnit
from controlstack.scripts.webui.host.unet.attachment import Call
from controlstack.scripts.webui.host.unet.denoiser import Denoising
from controlstack.scripts.webui.host.webui import WebUI
from controlstack.scripts.webui.pictures.restoring import Restoration
from controlstack.scripts.webui.request.evaluation import Evaluations
from controlstack.scripts.webui.request.passes import Pass
from families import Latents
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


def test_a_hint_that_is_latents_is_encoded_once_and_before_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the middle of an evaluation, the autoencoder would push the base network off the device."""
    webui, seen = host(monkeypatch), []

    def encode_first_stage(picture: torch.Tensor) -> torch.Tensor:
        seen.append(picture)
        return torch.nn.functional.avg_pool2d(picture, 8).repeat(1, 2, 1, 1)[:, :4]

    modules: Any = sys.modules["modules"]
    modules.devices.autocast, modules.devices.dtype_vae = nullcontext, torch.float32
    modules.shared.state = SimpleNamespace(interrupted=False, skipped=False)
    modules.sd_samplers_common = SimpleNamespace(InterruptedException=KeyboardInterrupt)
    vars(modules.shared.sd_model).update(encode_first_stage=encode_first_stage, get_first_stage_encoding=torch.sin)
    unit = ControlUnit(model=Latents(8), hint=torch.rand(1, 3, 48, 80))
    present = Pass(
        size=(8, 8), stack=ControlStack([unit], webui), denoising=Denoising(), originals=[],
        restoration=Restoration([], webui.latents, lambda: ()),
    )  # fmt: skip
    passes: Any = SimpleNamespace(present=present)
    evaluations = Evaluations(passes, webui, lambda _: None)
    evaluations.prepare(answers=False)
    assert len(seen) == 1 and seen[0].shape == (1, 3, 64, 64) and -1 <= seen[0].min() < 0 < seen[0].max() <= 1
    call = Call(
        x=torch.zeros(2, 4, 8, 8), timestep=torch.ones(2), context=torch.zeros(2, 3, 6), y=None,
        noise=lambda: 0.5, evaluate=no_second_evaluation, attend=no_attention,
    )  # fmt: skip
    (tensor,) = (each for each in evaluations.effects(call).input if each is not None)
    assert len(seen) == 1
    latents = torch.nn.functional.avg_pool2d(seen[0], 8).repeat(1, 2, 1, 1)[:, :4].sin()
    assert tensor.allclose(unit.model.network(latents).expand_as(tensor), atol=1e-6)
    webui.after_run(False)
    evaluations.prepare(answers=False)
    assert len(seen) == 2
