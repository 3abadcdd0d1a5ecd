"""What reuse costs in obedience, on the tiny world: how much less a hint is followed, and how sure that is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from controlstack.core.reuse.said import OFF, Reuse
from controlstack.core.unit import ControlUnit
from controlstack.models.registry import load_control_model
from controlstack.pipelines.bases import load_base
from controlstack.pipelines.drawing import generate
from controlstack.pipelines.request import Request
from controlstack.pipelines.tiny_world import BASE, CONTROLS, SIDE
from controlstack.training.evaluation.evaluate import Trial, make_trial, score
from numpy.typing import NDArray
from torch import Tensor

OBEDIENCE = {"canny": "edge_f1", "depth": "depth_error", "color": "colour_accuracy"}
FALLING = ("depth_error",)  # numbers that are the better the smaller they are
STACKS = {1: (("canny",), ("depth",), ("color",)), 2: (("canny", "color"),), 3: (("canny", "depth", "color"),)}
Numbers = NDArray[np.float64]  # one for each scene


class Loss(NamedTuple):
    """A relative loss of obedience, and the standard error of it over the scenes."""

    value: float
    noise: float


class World:
    """The tiny world with some scenes, and what was measured on it."""

    def __init__(self, scenes: int) -> None:
        self.trial: Trial = make_trial(scenes)
        self._alone = [_one(self.trial, k) for k in range(scenes)]
        self._base = load_base(BASE)
        self._controls = {name: load_control_model(CONTROLS / f"{name}.safetensors") for name in OBEDIENCE}
        self._exact: dict[tuple[Any, ...], Mapping[str, Numbers]] = {}

    def loss(self, kinds: Sequence[str], reuse: Reuse, count: int, sampler: str) -> Loss:
        """Return the worst relative loss of obedience to any of the units."""
        key = (tuple(kinds), count, sampler)
        if key not in self._exact:
            self._exact[key] = self._scores(kinds, OFF, count, sampler)
        exact, found = self._exact[key], self._scores(kinds, reuse, count, sampler)
        names = [OBEDIENCE[kind] for kind in kinds]
        return max(_loss(name, exact[name], found[name]) for name in names)

    def _scores(self, kinds: Sequence[str], reuse: Reuse, count: int, sampler: str) -> Mapping[str, Numbers]:
        """Return the numbers of each scene."""
        units = [ControlUnit(model=self._controls[k], hint=_tensor(self.trial.hints[k]), reuse=reuse) for k in kinds]
        request = Request(steps=count, guidance=1.0, width=SIDE, height=SIDE, batch=self.trial.size, scheduler=sampler)
        images = generate(self._base, request, units).images
        found = [score(one, images[k : k + 1]) for k, one in enumerate(self._alone)]
        return {name: np.array([each[name] for each in found]) for name in found[0]}


def _loss(name: str, exact: Numbers, found: Numbers) -> Loss:
    """Return the loss of a number. exact, found: of each scene."""
    change, mean = found - exact, float(exact.mean())
    value, noise = float(change.mean()) / mean, float(change.std(ddof=1)) / len(change) ** 0.5 / mean
    return Loss(value if name in FALLING else -value, noise)


def _one(trial: Trial, k: int) -> Trial:
    """Return a scene as a trial of its own."""
    hints = {name: hint[k : k + 1] for name, hint in trial.hints.items()}
    return Trial(trial.scenes[k : k + 1], trial.pictures[k : k + 1], hints)


def _tensor(pictures: Any) -> Tensor:
    return torch.from_numpy(pictures.copy()).permute(0, 3, 1, 2).float() / 255


def worst(world: World, units: int, reuse: Reuse, count: int, sampler: str) -> Loss:
    """Return the worst loss over the stacks of so many units."""
    return max(world.loss(kinds, reuse, count, sampler) for kinds in STACKS[units])
