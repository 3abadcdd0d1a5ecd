"""Networks that stay loaded: making one costs up to seconds, and nearly every run needs the one before again.

Where a network lies is the business of a manager, which the program passes in: hosts bring their own memory
management, `PlainManager` knows one device.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING, Any, Protocol

from ...core.errors import HostError
from .network import Network

if TYPE_CHECKING:
    import torch

    from .store import Store

AUTO = "auto"  # the device that PyTorch computes fastest on
CAPACITY = 4 * 2**30  # bytes of networks that are kept although nobody uses them now
CPU_MEMORY = 2**28  # bytes that a chunk may count on where the machine cannot be asked; larger batches lose the caches


class Manager(Protocol):
    """Where networks compute. A handle is whatever `adopt` returns; the pool hands it back as it is."""

    def adopt(self, name: str, network: object, size: int) -> Any:
        """Take in a network that was loaded on the CPU (`size` bytes) and return its handle."""
        ...

    def ready(self, handle: Any) -> AbstractContextManager[object]:
        """Bring the network where it computes while the context is open, whose value is the network."""
        ...

    def release(self, handle: Any) -> None:
        """Free the memory of a network that the pool forgets."""
        ...

    def free_memory(self) -> int:
        """Return the bytes that a forward may use."""
        ...


def find_device(name: str) -> torch.device:
    """Return a device that is there, by PyTorch's name for it; HostError for any other.

    `auto` is CUDA, then Apple's MPS, then the CPU.
    """
    import torch

    if name == AUTO:
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:  # whose words list every device that PyTorch was ever built for
        raise HostError(
            f"the device '{name}' is none that PyTorch knows, expected auto, cpu, cuda, cuda:1, mps or xpu: give one "
            "of them as --device"
        ) from None
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # of what PyTorch was not built for
        reason = " ".join(str(error).partition(". ")[0].split())  # what follows is a list of all backends
        raise HostError(f"the device '{name}' cannot be used ({reason}): give another one as --device") from error


class PlainManager:
    """Networks move to one device at their first use and stay there until the pool forgets them."""

    def __init__(self, device: str | torch.device | None = None) -> None:
        self._device = device

    @property
    def device(self) -> torch.device:
        """Return the device that was asked for; without one CUDA, then Apple's MPS, then the CPU."""
        import torch

        return find_device(AUTO) if self._device is None else torch.device(self._device)

    def adopt(self, name: str, network: object, size: int) -> object:
        """Return the network, which is its own handle."""
        return network

    def ready(self, handle: object) -> AbstractContextManager[object]:
        """Move a torch module to the device; other objects have none."""
        from torch import nn

        return nullcontext(handle.to(self.device) if isinstance(handle, nn.Module) else handle)

    def release(self, handle: object) -> None:
        """Do nothing: only the reference, which the pool drops, holds its memory."""

    def free_memory(self) -> int:
        """Return what CUDA says is free; elsewhere a fixed amount."""
        import torch

        device = self.device
        return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else CPU_MEMORY


@dataclass(slots=True)
class _Loaded:
    handle: Any
    size: int
    users: int = 0


class Pool:
    """Loaded networks, the least recently used forgotten first; those in use are never. Safe for several threads."""

    def __init__(self, manager: Manager, capacity: int = CAPACITY) -> None:
        self.manager = manager
        self.capacity = capacity
        self._loaded: OrderedDict[tuple[object, ...], _Loaded] = OrderedDict()
        self._lock = RLock()

    @property
    def bytes(self) -> int:
        """Return the bytes of all kept networks."""
        with self._lock:
            return sum(each.size for each in self._loaded.values())

    @property
    def names(self) -> tuple[str, ...]:
        """Return the ids of all kept networks, the next to be forgotten first."""
        with self._lock:
            return tuple(str(key[0]) for key in self._loaded)

    @contextmanager
    def ready(self, network: Network, store: Store) -> Generator[object, None, None]:
        """Yield the network where it computes; load it from the store's files only if it is not here already."""
        entry = self._enter(network, [store.locate(file) for file in network.files])
        try:
            with self.manager.ready(entry.handle) as usable:
                yield usable
        finally:
            with self._lock:
                entry.users -= 1
                self._shrink(self.capacity)

    def unload(self) -> None:
        """Forget every network that nobody uses now."""
        with self._lock:
            self._shrink(-1)  # those that measure nothing too

    def _enter(self, network: Network, paths: list[Path]) -> _Loaded:
        key = (network.id, *(_identity(path) for path in paths))
        with self._lock:
            entry = self._loaded.get(key)
            if entry is None:
                loaded = network.load(*paths)
                size = _size(loaded, paths)
                self._shrink(max(0, self.capacity - size))
                entry = self._loaded[key] = _Loaded(self.manager.adopt(network.id, loaded, size), size)
            self._loaded.move_to_end(key)
            entry.users += 1
            return entry

    def _shrink(self, target: int) -> None:
        total = self.bytes
        for key, entry in list(self._loaded.items()):
            if total <= target:
                return
            if not entry.users:
                del self._loaded[key]
                self.manager.release(entry.handle)
                total -= entry.size


def _identity(path: Path) -> tuple[str, int, int]:
    """Return what changes when somebody puts another file there."""
    status = path.stat()
    return str(path), status.st_size, status.st_mtime_ns


def _size(network: object, paths: list[Path]) -> int:
    from torch import nn

    if isinstance(network, nn.Module):
        tensors = [*network.parameters(), *network.buffers()]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    return sum(path.stat().st_size for path in paths)
