"""The networks of preprocessors in ComfyUI: its folders, its memory manager, its progress bar and its Cancel button."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import comfy.model_management as memory
import comfy.model_patcher
import comfy.utils
import folder_paths
from torch import nn

from ...preprocessors.networks.pool import Pool
from ...preprocessors.networks.store import Store
from ...preprocessors.perform import Runtime

FOLDER = "controlnet_aux"  # below the host's models, and the name of extra model paths
ENCODERS = "clip_vision"  # the host's folder of image encoders
FACES = "insightface"  # where other packs keep the recognition of faces
PEERS = ("comfyui_controlnet_aux/ckpts",)  # where other packs keep the same files, below the custom nodes
OFFLINE = "HF_HUB_OFFLINE"  # set: nothing is downloaded


@cache
def runtime() -> Runtime:
    """Return the one runtime of the process. A file that is missing is downloaded when its preprocessor is run."""
    own, *others = _folders()
    return Runtime(
        store=Store(
            own,
            others,
            automatic=not os.environ.get(OFFLINE),
            progress=_report_download,
            check_interrupt=memory.throw_exception_if_processing_interrupted,
        ),
        pool=Pool(HostManager()),
        progress=_report,
        check_interrupt=memory.throw_exception_if_processing_interrupted,
    )


class HostManager:
    """Keep networks in model patchers of the host, which moves them off the device when it needs room."""

    def adopt(self, name: str, network: object, size: int) -> object:
        """Return a patcher for a torch module; other objects have no device and stay as they are."""
        if not isinstance(network, nn.Module):
            return network
        device, rest = memory.get_torch_device(), memory.unet_offload_device()
        return comfy.model_patcher.ModelPatcher(_Held(network), load_device=device, offload_device=rest)

    def ready(self, handle: Any) -> AbstractContextManager[object]:
        """Load all of the network to the device: its layers cannot be streamed."""
        return _loaded(handle) if isinstance(handle, comfy.model_patcher.ModelPatcher) else nullcontext(handle)

    def release(self, handle: Any) -> None:
        """Take the network off the device; the host forgets a patcher that nobody holds."""
        if isinstance(handle, comfy.model_patcher.ModelPatcher):
            handle.detach()

    def free_memory(self) -> int:
        """Return the free bytes of the device, as the host counts them."""
        return int(memory.get_free_memory(memory.get_torch_device()))


class _Held(nn.Module):
    """A network as a patcher holds it: the host sets the `device` of what it moves, and that of others may be fixed."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network


@contextmanager
def _loaded(patcher: Any) -> Iterator[Any]:
    memory.load_models_gpu([patcher], force_full_load=True)
    yield patcher.model.network


def _folders() -> list[Path]:
    """Return where weights may lie, our own first: the host's folder, extra model paths, folders of other packs."""
    folder_paths.add_model_folder_path(FOLDER, str(Path(folder_paths.models_dir) / FOLDER))
    found = [Path(path) for path in folder_paths.get_folder_paths(FOLDER)]
    packs = [Path(path) / peer for path in folder_paths.get_folder_paths("custom_nodes") for peer in PEERS]
    encoders = [Path(path) for path in folder_paths.get_folder_paths(ENCODERS)]
    faces = Path(folder_paths.models_dir) / FACES
    return [*found, *encoders, faces, *(path for path in packs if path.is_dir())]


def _report(done: int, total: int) -> None:
    comfy.utils.ProgressBar(total).update_absolute(done)


def _report_download(done: int, total: int | None) -> None:
    """Show a download in bytes; a server that names no total gets no bar."""
    if total:
        _report(done, total)
