"""The WebUI as a program: its settings, its queue, and its folders."""

# pyright: reportMissingImports=false
# The host's own modules exist only inside it.

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ....core.schedule import RangeBasis

FOLDER, NETWORK_FOLDER = "ControlNet", "ControlNetPreprocessor"  # inside the WebUI's folder of models
ADAPTERS = "ipadapter"  # where other programs keep IP-Adapters; read, never made
FACES = "insightface"  # where they keep the recognition of faces


@dataclass(frozen=True)
class Program:
    """The WebUI around all requests. basis: what a range means in it where a unit does not say so."""

    basis: RangeBasis = RangeBasis.WEBUI

    def no_loading(self) -> AbstractContextManager[object]:
        """Return a context in which the WebUI does not load its first checkpoint, which it does beside requests.

        While it loads one, it replaces how PyTorch puts weights into all modules. Forge has no such lock, nor need.
        """
        from modules import sd_models

        return getattr(sd_models.model_data, "lock", None) or nullcontext()

    def option(self, name: str, default: Any) -> Any:
        """Return a setting, also one that is not registered."""
        from modules import shared

        return shared.opts.data.get(name, default)

    @contextmanager
    def alone(self, job: str) -> Iterator[None]:
        """Let nobody else compute while the context is open; what users stopped before does not stop this."""
        from modules import call_queue, shared

        with call_queue.queue_lock:
            shared.state.begin(job=job)
            try:
                yield
            finally:
                shared.state.end()

    def model_folders(self) -> list[Path]:
        """Return where control models lie; the first is where new ones belong."""
        from modules import paths, shared

        own = Path(__file__).parents[3] / "models"  # also holds our own code, and no weights of its own
        given = [getattr(shared.cmd_opts, "controlnet_dir", None), self.option("control_net_models_path", "")]
        models = Path(paths.models_path)
        folders = [models / FOLDER, models / ADAPTERS, *(Path(each) for each in given if each), own]
        folders[0].mkdir(parents=True, exist_ok=True)
        return folders

    def network_folders(self) -> list[Path]:
        """Return where networks of preprocessors lie; the first is where new ones are put, as on Forge."""
        from modules import paths, shared

        given = [getattr(shared.cmd_opts, "controlnet_annotator_models_path", None)]
        given.append(self.option("control_net_modules_path", ""))
        other = Path(paths.extensions_dir) / "sd-webui-controlnet" / "annotator" / "downloads"
        faces = Path(paths.models_path) / FACES
        return [Path(paths.models_path) / NETWORK_FOLDER, *(Path(each) for each in given if each), other, faces]


def not_finite_errors() -> tuple[type[Exception], ...]:
    """Return the errors with which the WebUI ends a request whose latents are not finite."""
    from modules import devices

    found = getattr(devices, "NansException", None)
    return () if found is None else (found,)
