"""Where control networks are between and during runs: in memory after the disk, on the device while they are needed."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from ...core.unit import ControlModel
from ...models.loading import read_header
from ...models.registry import DIFFERENCE, load_control_model

log = logging.getLogger("controlstack")

GIB = 1 << 30
ROOM = 1.25  # a network needs room for its activations beside its weights

Load = Callable[..., ControlModel]


class _Key(NamedTuple):
    path: Path
    changed: int  # the file's time in nanoseconds
    dtype: torch.dtype
    checkpoint: str  # of the base model, for files that hold differences to it


class ModelCache:
    """Control models by file, the least recently used go first.

    budget: bytes; the models of the current run are kept in any case, else a run with one model too many would load all
    of them again each time.
    """

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self._models: OrderedDict[_Key, ControlModel] = OrderedDict()
        self._is_difference: dict[tuple[Path, int], bool] = {}

    def get(
        self, path: Path, dtype: torch.dtype, checkpoint: str, base_state: Callable[[], Mapping[str, Tensor]]
    ) -> ControlModel:
        """The model of a file, loaded at most once. `base_state` is asked only for files that hold differences."""
        changed = path.stat().st_mtime_ns
        difference = self._holds_differences(path, changed)
        key = _Key(path, changed, dtype, checkpoint if difference else "")
        if key not in self._models:
            log.info("loading %s", path)
            self._models[key] = load_control_model(path, dtype=dtype, base_state=base_state() if difference else None)
        self._models.move_to_end(key)
        return self._models[key]

    def trim(self, used: list[ControlModel]) -> None:
        """Forget the oldest models beyond the budget, but none of `used`."""
        keep = {id(model) for model in used}
        for key, model in list(self._models.items()):
            if sum(size_of(network_of(each)) for each in self._models.values()) <= self.budget:
                return
            if id(model) not in keep:
                del self._models[key]

    def clear(self) -> None:
        """Forget all models."""
        self._models.clear()

    def __len__(self) -> int:
        return len(self._models)

    def _holds_differences(self, path: Path, changed: int) -> bool:
        if (path, changed) not in self._is_difference:
            self._is_difference[path, changed] = DIFFERENCE in read_header(path).shapes
        return self._is_difference[path, changed]


class Residency:
    """Which networks are on the device: as many as fit, and the least recently used leave first.

    free: bytes that are free on the device now. A network is moved as a whole when it is first needed and stays; one
    that is used at every step is therefore copied once, unless two that take turns do not fit beside each other.
    """

    def __init__(self, device: torch.device, home: torch.device, free: Callable[[], int]) -> None:
        self._device, self._home, self._free = device, home, free
        self._there: OrderedDict[int, nn.Module] = OrderedDict()

    @contextmanager
    def ready(self, network: nn.Module) -> Iterator[nn.Module]:
        """The network is on the device while the context is open."""
        if self._device != self._home:
            self._bring(network)
        yield network

    def release(self, leave_free: int | None = None) -> None:
        """Send networks home: all of them, or until so many bytes are free."""
        while self._there and (leave_free is None or self._free() < leave_free):
            _, network = self._there.popitem(last=False)
            network.to(self._home)

    def forget(self, network: object) -> None:
        """Somebody throws the network away."""
        self._there.pop(id(network), None)

    def _bring(self, network: nn.Module) -> None:
        if id(network) not in self._there:
            self.release(leave_free=int(size_of(network) * ROOM))
            network.to(self._device)
            self._there[id(network)] = network
        self._there.move_to_end(id(network))


def network_of(model: ControlModel) -> nn.Module:
    """The weights behind a control model."""
    return cast(Any, model).network


def size_of(network: nn.Module) -> int:
    """Bytes of its weights."""
    return sum(each.numel() * each.element_size() for each in network.parameters())
