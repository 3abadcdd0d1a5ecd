"""A link in the chain of controls that Forge's family keeps: what the program and other extensions ask of each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .tiles import Tiles


class Link:
    """A control in the program's chain, which stands before or behind others.

    It has the attributes that other extensions read of every control. The program's own tiled drawing reads the hint in
    `cond_hint_original` and cuts it, and puts the parts back into `cond_hint` before each evaluation; see `tiles`.
    """

    def __init__(self, size: int, tiles: Tiles) -> None:
        """size: bytes on the device that the units need. tiles: is told which parts of the picture are drawn."""
        self._size, self._tiles = size, tiles
        self._cut: Tensor | None = None
        self.device = torch.device("cpu")  # of `cond_hint`
        self.previous_controlnet: Any = None
        self.transformer_options: dict[str, Any] = {}
        self.strength = 1.0
        self.timestep_range: tuple[float, float] | None = None

    @property
    def cond_hint_original(self) -> Tensor:
        """Return the map of the whole picture."""
        return self._tiles.control_params[0].hint_cond

    @property
    def cond_hint(self) -> Tensor | None:
        """Return the parts that the next evaluation shows; None before anybody has cut some."""
        return self._cut

    @cond_hint.setter
    def cond_hint(self, tiles: Tensor) -> None:
        self._tiles.control_params[0].hint_cond = self._cut = tiles

    def set_previous_controlnet(self, control: Any) -> Link:
        """Take what stands before it in the chain."""
        self.previous_controlnet = control
        return self

    def get_models(self) -> list[Any]:
        """Return patchers that the program is to load: ours bring their own networks."""
        return [] if self.previous_controlnet is None else self.previous_controlnet.get_models()

    def inference_memory_requirements(self, dtype: torch.dtype) -> int:
        """Return the bytes to leave free."""
        before = self.previous_controlnet
        return self._size + (0 if before is None else before.inference_memory_requirements(dtype))

    def pre_run(self, model: Any, percent_to_timestep_function: Callable[[float], float]) -> None:
        """Begin the sampling."""
        if self.previous_controlnet is not None:
            self.previous_controlnet.pre_run(model, percent_to_timestep_function)

    def cleanup(self) -> None:
        """End the sampling; the program leaves this out after an error."""
        self.detach()
        if self.previous_controlnet is not None:
            self.previous_controlnet.cleanup()

    def detach(self) -> None:
        """Leave no trace of the pass."""
        self._cut = None
