"""Convolutions of few pixels: the same numbers by a product of matrices, where that is faster."""

from __future__ import annotations

import pytest
import torch
from controlstack.models import convolution
from controlstack.models.convolution import FewPixels, for_few_pixels
from controlstack.models.layers import Kit, ResBlock
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

SHAPES = {  # kernel, stride, padding, dilation
    "of a residual block": (3, 1, 1, 1),
    "that halves": (3, 2, 1, 1),
    "of one pixel": (1, 1, 0, 1),
    "uneven": ((3, 1), (1, 2), (2, 0), (2, 1)),
}


@pytest.fixture
def products(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Let small layers take the way of heavy ones; the list has what they multiplied."""
    seen: list[Tensor] = []
    unfold = torch.nn.functional.unfold

    def spied(x: Tensor, *args: object) -> Tensor:
        seen.append(x)
        return unfold(x, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(convolution, "HEAVY", 1)
    monkeypatch.setattr(torch.nn.functional, "unfold", spied)
    return seen


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_product_gives_what_the_convolution_gives(products: list[Tensor], shape: str, rows: int, bias: bool) -> None:
    kernel, stride, padding, dilation = SHAPES[shape]
    layer = FewPixels(6, 5, kernel, stride, padding, dilation, bias=bias)  # type: ignore[arg-type]
    x = torch.randn(rows, 6, 7, 9)
    wanted = torch.conv2d(x, layer.weight, layer.bias, layer.stride, layer.padding, layer.dilation)  # type: ignore[arg-type]
    assert torch.allclose(layer(x), wanted, atol=1e-5)
    assert len(products) == 1


@pytest.mark.parametrize(
    ("layer", "x"),
    [
        (FewPixels(6, 6, 3, padding=1), torch.randn(2, 6, 16, 16)),
        (FewPixels(6, 6, 3, padding=1, groups=2), torch.randn(1, 6, 4, 4)),
        (FewPixels(6, 6, 3, padding=1, padding_mode="circular"), torch.randn(1, 6, 4, 4)),
    ],
    ids=["many pixels", "groups", "seamless"],
)
def test_others_stay_as_they_are(products: list[Tensor], layer: FewPixels, x: Tensor) -> None:
    assert layer(x).equal(nn.Conv2d._conv_forward(layer, x, layer.weight, layer.bias))
    assert not products


def test_light_layers_stay_as_they_are() -> None:
    layer, x = FewPixels(8, 8, 3, padding=1), torch.randn(1, 8, 4, 4)
    assert layer(x).equal(torch.conv2d(x, layer.weight, layer.bias, padding=1))


def test_gradients_are_the_same(products: list[Tensor]) -> None:
    layer, x = FewPixels(4, 4, 3, padding=1), torch.randn(2, 4, 5, 5)
    plain = nn.Conv2d(4, 4, 3, padding=1)
    plain.load_state_dict(layer.state_dict())
    for each in (layer, plain):
        each(x).square().sum().backward()
    assert products
    assert torch.allclose(layer.weight.grad, plain.weight.grad, atol=1e-4)  # type: ignore[arg-type]


def test_the_widest_layers_of_a_control_network_take_it() -> None:
    """At 256 px, on the 8 x 8 and 4 x 4 pixels of SD 1.x's deepest levels."""
    block = ResBlock(1280, 1280, 1280, Kit()).eval().requires_grad_(False)
    x, emb = torch.randn(2, 1280, 4, 4), torch.randn(2, 1280)
    with torch.profiler.profile() as seen:
        block(x, emb)
    assert sum(each.count for each in seen.key_averages() if each.key == "aten::im2col") == 2


def test_as_many_operations_are_counted(products: list[Tensor]) -> None:
    x, counted = torch.randn(2, 6, 5, 5), []
    for layer in (FewPixels(6, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)):
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            layer(x)
        counted.append(counter.get_total_flops())
    assert products
    assert counted[0] == counted[1] > 0


def test_a_hosts_layers_take_it_too(products: list[Tensor]) -> None:
    class Casting(nn.Conv2d):
        """A layer as ComfyUI's, which casts its weights before it convolves."""

        def forward(self, x: Tensor) -> Tensor:
            return self._conv_forward(x, self.weight * 2, self.bias)

    class Ops:
        Linear, Conv2d, GroupNorm, LayerNorm = nn.Linear, Casting, nn.GroupNorm, nn.LayerNorm

    layer, x = for_few_pixels(Ops).Conv2d(4, 4, 3, padding=1), torch.randn(1, 4, 4, 4)
    assert isinstance(layer, Casting)
    assert torch.allclose(layer(x), torch.conv2d(x, layer.weight * 2, layer.bias, padding=1), atol=1e-5)
    assert products
    assert for_few_pixels(Ops).Linear is nn.Linear
