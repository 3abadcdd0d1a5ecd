"""Control models that stay in memory after the disk, for the requests to come."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ....core.control import ControlModel
from ....models.files.loading import open_model
from ....models.registry import load_open, reads_base
from .memory import network_of, size_of

log = logging.getLogger("controlstack")


class ModelCache:
    """Control models by file, the least recently used go first.

    budget: bytes; the models of the current run are kept in any case, else a run with one model too many would load all
    of them again each time.
    """

    def __init__(self, budget: int, alone: Callable[[], AbstractContextManager[object]] = nullcontext) -> None:
        """alone: a context in which the program loads no model in another thread."""
        self.budget, self._alone = budget, alone
        self._models: OrderedDict[_Key, ControlModel] = OrderedDict()

    def get(
        self, path: Path, dtype: torch.dtype, checkpoint: str, base_state: Callable[[], Mapping[str, Tensor]]
    ) -> ControlModel:
        """Return the model of a file, loaded at most once. `base_state` is asked only for files that need it."""
        changed = path.stat().st_mtime_ns
        whole = _Key(path, changed, dtype, "")
        key = next((each for each in (whole, whole._replace(checkpoint=checkpoint)) if each in self._models), None)
        if key is None:
            log.info("loading %s", path)
            with self._alone(), open_model(path) as file:
                partial = reads_base(file.header)
                key = whole._replace(checkpoint=checkpoint) if partial else whole
                self._models[key] = load_open(file, dtype=dtype, base_state=base_state() if partial else None)
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


class _Key(NamedTuple):
    path: Path
    changed: int  # the file's time in nanoseconds
    dtype: torch.dtype
    checkpoint: str  # of the base model, for files that are complete only with it
