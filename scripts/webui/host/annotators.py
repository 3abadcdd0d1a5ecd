"""The networks of preprocessors in the WebUI: its folders, its device, its memory, its progress and its Stop button."""

# pyright: reportMissingImports=false
# The host's own modules exist only inside it.

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from ....core.errors import HostError
from ....preprocessors.networks.pool import CPU_MEMORY, Pool
from ....preprocessors.networks.store import Store
from ....preprocessors.perform import Runtime
from .memory import Residency, free_on

if TYPE_CHECKING:
    import torch

    from .program import Program

MEGABYTE = 10**6
DOWNLOAD = "controlstack_download"  # setting: whether weights are fetched when they are first needed, as users know it


class StoppedError(HostError):
    """A user stopped what was being prepared; the WebUI itself ends the request."""


def make_runtime(program: Program, device: torch.device, residency: Residency) -> Runtime:
    """Return the one runtime of the process; its networks share the device with those of `residency`."""
    own, *others = program.network_folders()
    own.mkdir(parents=True, exist_ok=True)
    return Runtime(
        store=Store(
            own,
            others,
            automatic=bool(program.option(DOWNLOAD, True)),
            progress=_report_download,
            check_interrupt=_check_interrupt,
        ),
        pool=Pool(HostManager(device, residency)),
        progress=_report,
        check_interrupt=_check_interrupt,
    )


class HostManager:
    """Lets networks share the device with control models, and leave it when room is needed."""

    def __init__(self, device: torch.device, residency: Residency) -> None:
        self._device, self._residency = device, residency

    def adopt(self, name: str, network: object, size: int) -> object:
        """Return the network: it is its own handle."""
        return network

    def ready(self, handle: object) -> AbstractContextManager[object]:
        """Move torch modules; other objects have no device."""
        from torch import nn

        return self._on_device(handle) if isinstance(handle, nn.Module) else nullcontext(handle)

    def release(self, handle: object) -> None:
        """Take the network off the device; nothing but the pool's reference held its memory."""
        self._residency.forget(handle)

    def free_memory(self) -> int:
        """Return what the device says is free; on a CPU a fixed amount."""
        return free_on(self._device) if self._device.type == "cuda" else CPU_MEMORY

    @contextmanager
    def _on_device(self, network: Any) -> Iterator[Any]:
        from modules import devices

        with devices.without_autocast(), self._residency.ready(network):
            yield network


def _report(done: int, total: int) -> None:
    from modules import shared

    shared.state.textinfo = f"ControlNet preprocessor: {done} of {total}" if total > 1 else None


def _report_download(done: int, total: int | None) -> None:
    from modules import shared

    of = f" of {total / MEGABYTE:,.0f}" if total else ""
    shared.state.textinfo = f"ControlNet preprocessor: {done / MEGABYTE:,.0f}{of} MB of weights downloaded"


def _check_interrupt() -> None:
    """Raise what ends the preparation alone: the sampler, which comes next, ends before its first step."""
    from modules import shared

    if shared.state.interrupted:
        raise StoppedError("the preprocessor was stopped")
