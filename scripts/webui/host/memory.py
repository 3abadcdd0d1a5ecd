"""Where control networks are during runs: on the device while they are needed, at home otherwise."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import nn

from ....core.control import ControlModel
from ....core.network.attach import Patches

log = logging.getLogger("controlstack")

GIB = 1 << 30
ROOM = 1.25  # a network needs room for its activations beside its weights
WORKSPACE = 1 * GIB  # for the activations and the visiting layers of a network that does not fit


class Residency:
    """Which networks are on the device: as many as fit, and the least recently used leave first.

    free: bytes that are free on the device now. A network is moved as a whole when it is first needed and stays, so one
    that is used at every step is copied once. If it does not fit even when all others have left, some of its layers
    stay and the others visit the device one by one, while they compute.
    """

    def __init__(self, device: torch.device, home: torch.device, free: Callable[[], int]) -> None:
        self._device, self._home, self._free = device, home, free
        self._there: OrderedDict[int, nn.Module | Stream] = OrderedDict()
        self.frugal = False  # True: no layer stays, whatever is free

    @contextmanager
    def ready(self, network: nn.Module) -> Iterator[nn.Module]:
        """Let the network compute on the device while the context is open."""
        if self._device != self._home:
            self._bring(network)
        yield network

    def release(self, leave_free: int | None = None) -> None:
        """Send networks home: all of them, or until so many bytes are free."""
        while self._there and (leave_free is None or self._free() < leave_free):
            _, network = self._there.popitem(last=False)
            self._send_home(network)

    def send_home(self, network: object) -> None:
        """Send one network home, if it is on the device."""
        there = self._there.pop(id(network), None)
        if there is not None:
            self._send_home(there)

    def forget(self, network: object) -> None:
        """Forget a network that somebody throws away."""
        self._there.pop(id(network), None)

    def _bring(self, network: nn.Module) -> None:
        there = self._there.get(id(network))
        if there is not None and self.frugal and not isinstance(there, Stream):
            self._send_home(self._there.pop(id(network)))
        if id(network) not in self._there:
            self._there[id(network)] = self._moved(network)
        self._there.move_to_end(id(network))

    def _moved(self, network: nn.Module) -> nn.Module | Stream:
        needed = int(size_of(network) * ROOM)
        if self.frugal:
            return Stream(network, self._device, budget=0)
        self.release(leave_free=needed)
        if self._free() < needed:
            log.info("%d MiB of weights do not fit on the device: layers take turns", size_of(network) >> 20)
            return Stream(network, self._device, budget=max(0, self._free() - WORKSPACE))
        return network.to(self._device)

    def _send_home(self, network: nn.Module | Stream) -> None:
        if isinstance(network, Stream):
            network.close()
        else:
            network.to(self._home)


class Stream:
    """A network whose first layers, up to `budget` bytes, are on the device, and whose others visit it to compute.

    What is at home stays there: a visit is a copy, thrown away afterwards, so nothing is ever copied back.
    """

    def __init__(self, network: nn.Module, device: torch.device, budget: int) -> None:
        self._device = device
        self._home: dict[nn.Module, dict[str, nn.Parameter]] = {}
        self._patches = Patches()
        for layer in network.modules():
            own = list(layer.parameters(recurse=False))
            size = sum(each.numel() * each.element_size() for each in own)
            if not own:
                continue
            if size <= budget:
                budget -= size
                self._enter(layer)
            else:
                budget = 0  # the rest visits too, so that the order of use is the order of copies
                self._patches.hook(layer.register_forward_pre_hook(self._enter))
                self._patches.hook(layer.register_forward_hook(self._leave, always_call=True))

    def close(self) -> None:
        """Bring everything home, and leave no trace."""
        self._patches.eject()
        for layer in list(self._home):
            self._leave(layer)

    def _enter(self, layer: nn.Module, _args: object = None) -> None:
        own = dict(layer.named_parameters(recurse=False))
        self._home[layer] = own
        for name, parameter in own.items():
            visitor = parameter.data.to(self._device, non_blocking=True)
            setattr(layer, name, nn.Parameter(visitor, requires_grad=False))

    def _leave(self, layer: nn.Module, *_: object) -> None:
        for name, parameter in self._home.pop(layer, {}).items():
            setattr(layer, name, parameter)


def free_on(device: torch.device) -> int:
    """Return the bytes on a device that nobody uses; devices that share the CPU's memory, or cannot say, have all."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 1 << 62


def network_of(model: ControlModel) -> nn.Module:
    """Return the module that holds a control model's weights."""
    return cast(Any, model).network


def size_of(network: nn.Module) -> int:
    """Return the bytes of a network's weights."""
    return sum(each.numel() * each.element_size() for each in network.parameters())
