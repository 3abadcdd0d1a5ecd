"""Weights of a U-Net in Forge Neo as its layers compute with them: each layer has a list of what is added to it."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from controlstack.scripts.webui.host.forge import Forge
from torch import Tensor, nn


class Layer(nn.Linear):
    """As Forge Neo's layers; their lists are empty until a LoRA is loaded."""

    def __init__(self) -> None:
        super().__init__(2, 3)
        self.weight_function, self.bias_function = [], []


class Packed:
    """As comfy-kitchen's tensors, which stay packed whatever they are cast to."""

    _layout_cls = "TensorCoreFP8Layout"

    def __init__(self, plain: Tensor) -> None:
        self._plain = plain

    def dequantize(self) -> Tensor:
        return self._plain


@pytest.fixture
def unet(monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    unet = nn.Module()
    unet.output_blocks, unet.out = nn.ModuleList(), Layer()
    patcher = SimpleNamespace(model=SimpleNamespace(diffusion_model=unet), patches_uuid=1)
    shared = SimpleNamespace(sd_model=SimpleNamespace(forge_objects=SimpleNamespace(unet=patcher), sd_model_hash="abc"))
    modules = ModuleType("modules")
    vars(modules).update(shared=shared, devices=SimpleNamespace(device=torch.device("cpu"), cpu=torch.device("cpu")))
    monkeypatch.setitem(sys.modules, "modules", modules)
    return unet


def test_a_weight_is_read_with_what_is_added_to_it(unet: nn.Module) -> None:
    read = Forge().base_weights.read
    plain = unet.out.weight.detach().clone()
    assert torch.equal(read("out.weight"), plain)
    unet.out.weight_function += [lambda weight: weight + 1, lambda weight: weight * 2]
    assert torch.equal(read("out.weight"), (plain + 1) * 2)
    assert torch.equal(read("out.bias"), unet.out.bias)
    assert read("out.no_such") is None


def test_a_packed_weight_is_read_as_plain_numbers(unet: nn.Module) -> None:
    plain = torch.randn(3, 2).half()
    del unet.out.weight
    unet.out.weight = Packed(plain)
    unet.out.weight_function.append(lambda weight: weight + 1)
    read = Forge().base_weights.read("out.weight")
    assert read.dtype == torch.float32 and torch.equal(read, plain.float() + 1)
