"""One training loop for every part of the tiny world: steps, clipping, rates, and a state from which to go on.

A resumed training takes the same steps, bit for bit, as one that was never stopped: the state of its random numbers is
kept too.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

CLIP = 1.0  # norm of the gradient
SHORTEST, SHORTEST_RISE = 3, 2  # steps of a schedule and of its warm-up; with less, OneCycleLR divides by zero


@dataclass(slots=True)
class Chance:
    """Where a training's random numbers come from; numpy's choose examples, torch's make noise."""

    numpy: np.random.Generator
    torch: torch.Generator


@dataclass(slots=True)
class Training:
    """What a training holds between two steps. `loss` draws a batch by chance and returns its loss."""

    modules: nn.Module
    loss: Callable[[Chance], Tensor]
    optimiser: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    chance: Chance
    average: torch.optim.swa_utils.AveragedModel | None = None
    losses: list[float] = field(default_factory=list)

    def run(self, steps: int) -> Iterator[float]:
        """Train in place until `steps` are done; yields each loss."""
        while len(self.losses) < steps:
            loss = self.loss(self.chance)
            self.optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.modules.parameters(), CLIP)
            self.optimiser.step()
            self.schedule.step()
            if self.average is not None:
                self.average.update_parameters(self.modules)
            self.losses.append(loss.item())
            yield self.losses[-1]

    def save(self, path: Path) -> None:
        """Write the state; nobody finds it half-written."""
        fresh = path.with_suffix(".new")
        path.parent.mkdir(parents=True, exist_ok=True)
        parts = {name: part.state_dict() for name, part in self._parts().items()}
        numbers = {"numpy": json.dumps(self.chance.numpy.bit_generator.state), "torch": self.chance.torch.get_state()}
        torch.save({**parts, **numbers, "losses": self.losses}, fresh)
        os.replace(fresh, path)  # noqa: PTH105 - Path.replace does not say that it is atomic

    def load(self, path: Path) -> None:
        """Go on from a saved state."""
        state = torch.load(path, weights_only=True)
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        self.chance.numpy.bit_generator.state = json.loads(state["numpy"])
        self.chance.torch.set_state(state["torch"])
        self.losses[:] = state["losses"]

    def _parts(self) -> dict[str, Any]:
        parts: dict[str, Any] = {"modules": self.modules, "optimiser": self.optimiser, "schedule": self.schedule}
        return parts if self.average is None else {**parts, "average": self.average}


def new_training(
    modules: nn.Module,
    loss: Callable[[Chance], Tensor],
    *,
    steps: int,
    seed: int,
    rate: float,
    warm_up: float,
    decay: float,
) -> Training:
    """Return a training by AdamW, whose rate rises for a share `warm_up` of the steps, then falls along a cosine."""
    optimiser = torch.optim.AdamW([p for p in modules.parameters() if p.requires_grad], rate, weight_decay=decay)
    length = max(steps, SHORTEST)
    rising = max(warm_up, SHORTEST_RISE / length)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=length, pct_start=rising)
    chance = Chance(np.random.default_rng(seed), torch.Generator().manual_seed(seed))
    return Training(modules, loss, optimiser, schedule, chance)
