"""The networks of preprocessors under ComfyUI's memory management, with its folders, progress bar and Stop button."""

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

from ..preprocessors.pool import Pool
from ..preprocessors.runtime import Runtime
from ..preprocessors.store import Store

FOLDER = "ControlNetPreprocessor"  # below the models, as on Forge
PEER = Path("comfyui_controlnet_aux", "ckpts")  # below the custom nodes
PEER_VARIABLE = "AUX_ANNOTATOR_CKPTS_PATH"  # of that pack


@cache
def runtime() -> Runtime:
    """The one of this process. To choose a preprocessor is to ask for its weights, as users of ComfyUI know it."""
    own, *others = _folders()
    own.mkdir(parents=True, exist_ok=True)
    return Runtime(
        store=Store(own, others, automatic=True),
        pool=Pool(HostManager()),
        progress=lambda done, total: comfy.utils.ProgressBar(total).update_absolute(done, total),
        check_interrupt=memory.throw_exception_if_processing_interrupted,
    )


class HostManager:
    """Torch modules live in the host's patchers, which it loads and unloads among its own models."""

    def adopt(self, name: str, network: object, size: int) -> object:
        """A patcher of the module; other objects are their own handle."""
        if not isinstance(network, nn.Module):
            return network
        device, offload = memory.get_torch_device(), memory.unet_offload_device()
        return comfy.model_patcher.ModelPatcher(network, load_device=device, offload_device=offload)

    def ready(self, handle: Any) -> AbstractContextManager[object]:
        """Loaded by the host, which makes room for it."""
        return self._loaded(handle) if isinstance(handle, comfy.model_patcher.ModelPatcher) else nullcontext(handle)

    def release(self, handle: Any) -> None:
        """Off the device; nothing but the pool's reference held its memory."""
        if isinstance(handle, comfy.model_patcher.ModelPatcher):
            handle.detach()

    def free_memory(self) -> int:
        """Bytes that the host can give."""
        return int(memory.get_free_memory())

    @contextmanager
    def _loaded(self, patcher: Any) -> Iterator[Any]:
        memory.load_models_gpu([patcher])
        yield patcher.model


def _folders() -> list[Path]:
    """Where weights lie; the first is where new ones are put."""
    registered = folder_paths.get_folder_paths(FOLDER) if FOLDER in folder_paths.folder_names_and_paths else []
    peers = [Path(each) / PEER for each in folder_paths.get_folder_paths("custom_nodes")]
    named = [Path(os.environ[PEER_VARIABLE])] if PEER_VARIABLE in os.environ else []
    return [Path(folder_paths.models_dir) / FOLDER, *(Path(each) for each in registered), *named, *peers]
