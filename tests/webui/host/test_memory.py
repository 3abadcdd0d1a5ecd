"""Weights are where they are needed, and home again afterwards."""

from __future__ import annotations

import pytest
import torch
from controlstack.scripts.webui.host.memory import GIB, WORKSPACE, Residency, Stream, size_of
from torch import nn

CPU, DEVICE = torch.device("cpu"), torch.device("meta")  # meta computes shapes: no GPU is needed to see who is where


def make_network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 8), nn.SiLU(), nn.Linear(8, 8), nn.Linear(8, 2))


def places(network: nn.Module) -> list[str]:
    return [each.device.type for each in network.parameters()]


def values(network: nn.Module) -> list[torch.Tensor]:
    return [each.detach().clone() for each in network.parameters()]


class Memory:
    """A device with so many bytes; what lies there is counted."""

    def __init__(self, size: int, *networks: nn.Module) -> None:
        self.size, self.networks = size, networks

    def __call__(self) -> int:
        there = [each for network in self.networks for each in network.parameters() if each.device == DEVICE]
        return self.size - sum(each.numel() * each.element_size() for each in there)


def test_layers_visit_and_leave_no_trace() -> None:
    network = make_network()
    before = values(network)
    seen: list[list[str]] = []
    network[2].register_forward_pre_hook(lambda *_: seen.append(places(network)))
    hooks = [len(each._forward_hooks) + len(each._forward_pre_hooks) for each in network.modules()]
    stream = Stream(network, DEVICE, budget=size_of(network[0]))
    assert network(torch.ones(1, 4, device=DEVICE)).shape == (1, 2)
    assert places(network) == ["meta"] * 2 + ["cpu"] * 4
    stream.close()
    assert places(network) == ["cpu"] * 6 and len(seen) == 1
    assert [len(each._forward_hooks) + len(each._forward_pre_hooks) for each in network.modules()] == hooks
    assert all(torch.equal(a, b) for a, b in zip(values(network), before, strict=True))


def test_a_layer_that_fails_goes_home() -> None:
    network = make_network()
    stream = Stream(network, DEVICE, budget=0)
    with pytest.raises(RuntimeError):
        network(torch.ones(1, 5, device=DEVICE))
    assert places(network) == ["cpu"] * 6
    stream.close()


def test_what_fits_stays() -> None:
    network = make_network()
    residency = Residency(DEVICE, CPU, Memory(GIB, network))
    for _ in range(2):
        with residency.ready(network):
            assert set(places(network)) == {"meta"}


def test_what_does_not_fit_takes_turns() -> None:
    network = make_network()
    residency = Residency(DEVICE, CPU, lambda: size_of(network))
    with residency.ready(network) as ready:
        assert ready(torch.ones(1, 4, device=DEVICE)).shape == (1, 2)
        assert set(places(network)) == {"cpu"}
    residency.release()
    assert not any(each._forward_pre_hooks for each in network.modules())


def test_as_much_stays_as_fits_beside_the_work() -> None:
    network = make_network()
    room = size_of(network[0])
    residency = Residency(DEVICE, CPU, lambda: WORKSPACE + room)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("controlstack.scripts.webui.host.memory.ROOM", 1 << 40)  # nothing fits as a whole
        with residency.ready(network):
            assert places(network) == ["meta"] * 2 + ["cpu"] * 4


def test_a_frugal_run_keeps_nothing_there() -> None:
    network = make_network()
    residency = Residency(DEVICE, CPU, lambda: GIB)
    residency.frugal = True
    with residency.ready(network):
        network(torch.ones(1, 4, device=DEVICE))
        assert set(places(network)) == {"cpu"}
    residency.release()
    residency.frugal = False


def test_the_device_is_home_on_a_cpu() -> None:
    network = make_network()
    with Residency(CPU, CPU, lambda: 0).ready(network) as ready:
        assert ready is network and places(network) == ["cpu"] * 6


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn])
def test_visits_change_no_precision(dtype: torch.dtype) -> None:
    """Also none that the device cannot compute in: a network is moved, never cast."""
    network = make_network().to(dtype)
    before = [(each.dtype, each.data_ptr()) for each in network.parameters()]
    residency = Residency(DEVICE, CPU, lambda: GIB)
    residency.frugal = True
    seen: list[torch.dtype] = []
    network[0].register_forward_pre_hook(lambda layer, _: seen.extend(each.dtype for each in layer.parameters()))
    with residency.ready(network), pytest.raises(RuntimeError):
        network(torch.ones(1, 5, device=DEVICE))  # too wide: it fails in any precision
    residency.release()
    assert [(each.dtype, each.data_ptr()) for each in network.parameters()] == before
    assert set(seen) == {dtype}
