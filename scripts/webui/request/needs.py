"""What a run needs: from the WebUI around it, and from what outlives it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from ....core.control import ControlModel
from ....core.schedule import RangeBasis
from ..host.attachment import Answers, Attachment
from ..host.cache import ModelCache
from ..host.files import ModelFiles
from ..host.tiles import Tiles
from .preprocessing import Preprocessing


class Host(Protocol):
    """What a run needs from the WebUI; `host.WebUI` is the real one."""

    def tiles(self, canvas: Callable[[], tuple[int, int]]) -> Tiles | None: ...
    def attachment(self, answers: Answers, tiles: Tiles | None) -> Attachment: ...
    def ready(self, model: ControlModel) -> Any: ...
    def check_interrupt(self) -> None: ...
    def before_run(self, low_vram: bool) -> None: ...
    def after_run(self, low_vram: bool) -> None: ...
    def alone(self, job: str) -> Any: ...
    def option(self, name: str, default: Any) -> Any: ...
    def encode(self, picture: Tensor) -> Tensor: ...
    def signal(self, timestep: Tensor) -> Tensor: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def predicts_velocity(self) -> bool: ...
    @property
    def basis(self) -> RangeBasis: ...
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
    files: ModelFiles
    models: ModelCache
    preprocess: Preprocessing
    active: Running | None = None  # the run that is sampled now
