"""What a run needs: from the WebUI around it, and from what outlives it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from ....core.control import ControlModel
from ....core.host import Host as CoreHost
from ....core.schedule import RangeBasis
from ..host.cache import ModelCache
from ..host.files import ModelFiles
from ..host.unet.attachment import Answers, Attachment
from ..host.unet.tiles import Tiles
from ..pictures.restoring import Base
from .preprocessing import Preprocessing


class Program(Protocol):
    """What is asked of the WebUI as a program; `host.program.Program` is the real one."""

    @property
    def basis(self) -> RangeBasis: ...
    def option(self, name: str, default: Any) -> Any: ...
    def alone(self, job: str) -> AbstractContextManager[None]: ...


class Host(CoreHost, Protocol):
    """What a run needs of the WebUI's base model and device; `host.webui.WebUI` is the real one."""

    def tiles(self, canvas: Callable[[], tuple[int, int]]) -> Tiles | None: ...
    def attachment(self, answers: Answers, tiles: Tiles | None) -> Attachment: ...
    def follow(self, model: ControlModel) -> bool: ...
    def before_run(self, low_vram: bool) -> None: ...
    def after_run(self, low_vram: bool) -> None: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def latents(self) -> Base: ...
    @property
    def unet(self) -> Any: ...
    @property
    def checkpoint(self) -> str: ...
    @property
    def dtype(self) -> torch.dtype: ...


class Running(Protocol):
    """What is asked of the run that is sampled now; `running.Running` is one."""

    @property
    def tiles(self) -> Tiles | None: ...
    def end(self) -> None: ...
    def announce(self, rows: int, cond_rows: int, step: int, steps: int, denoiser: Any) -> None: ...


@dataclass(kw_only=True)
class Services:
    """What outlives a run."""

    host: Host
    program: Program
    files: ModelFiles
    models: ModelCache
    preprocess: Preprocessing
    active: Running | None = None  # the run that is sampled now

    @contextmanager
    def alone(self, job: str) -> Iterator[None]:
        """Let nobody else compute while the context is open, and make room on the device afterwards."""
        with self.program.alone(job):
            try:
                yield
            finally:
                self.host.after_run(False)
