"""What reuse costs in obedience, on the tiny world: how much less a hint is followed, and how sure that is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from typing import Any, NamedTuple

import numpy as np
import torch
from controlstack.core.control import ControlModel
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
Images = NDArray[np.uint8]  # [N, H, W, 3]


class Loss(NamedTuple):
    """A relative loss of obedience, or a change of pictures, and the standard error of it over the scenes."""

    value: float
    noise: float


class _Drawn(NamedTuple):
    """Pictures of the scenes, and their numbers by name."""

    images: Images
    scores: Mapping[str, Numbers]


class World:
    """The tiny world with some scenes, and what was measured on it."""

    def __init__(self, scenes: int) -> None:
        self.trial: Trial = make_trial(scenes)
        self._alone = [_one(self.trial, k) for k in range(scenes)]
        self._base = load_base(BASE)
        self.controls = {name: load_control_model(CONTROLS / f"{name}.safetensors") for name in OBEDIENCE}
        self._drawn: dict[tuple[Any, ...], _Drawn] = {}

    def loss(self, kinds: Sequence[str], reuse: Reuse, count: int, sampler: str) -> Loss:
        """Return the worst relative loss of obedience to any of the units."""
        exact, found = (self._draw(kinds, each, count, sampler).scores for each in (OFF, reuse))
        names = [OBEDIENCE[kind] for kind in kinds]
        return max(_loss(name, exact[name], found[name]) for name in names)

    def loss_and_change(
        self, kinds: Sequence[str], reuse: Reuse, count: int, sampler: str, points: int
    ) -> tuple[Loss, Loss]:
        """Return the worst relative loss, and how far pictures are from those of the exact units.

        points: how many shallow ones a model has.
        """
        models = {kind: copy(self.controls[kind]) for kind in kinds}
        for model in models.values():
            model.shallow = model.points[:points]
        exact, found = self._draw(kinds, OFF, count, sampler), self._draw_anew(models, reuse, count, sampler)
        names = [OBEDIENCE[kind] for kind in kinds]
        loss = max(_loss(name, exact.scores[name], found.scores[name]) for name in names)
        return loss, difference(found.images, exact.images)

    def hint(self, kind: str) -> Tensor:
        """Return the hints [N, 3, H, W] of the scenes."""
        return _tensor(self.trial.hints[kind])

    def images(self, units: Sequence[ControlUnit], count: int, sampler: str) -> Images:
        """Return pictures [N, H, W, 3] of all scenes."""
        request = Request(steps=count, guidance=1.0, width=SIDE, height=SIDE, batch=self.trial.size, scheduler=sampler)
        return generate(self._base, request, units).images

    def _draw(self, kinds: Sequence[str], reuse: Reuse, count: int, sampler: str) -> _Drawn:
        key = (tuple(kinds), reuse, count, sampler)
        if key not in self._drawn:
            self._drawn[key] = self._draw_anew({kind: self.controls[kind] for kind in kinds}, reuse, count, sampler)
        return self._drawn[key]

    def _draw_anew(self, models: Mapping[str, ControlModel], reuse: Reuse, count: int, sampler: str) -> _Drawn:
        units = [ControlUnit(model=model, hint=self.hint(kind), reuse=reuse) for kind, model in models.items()]
        images = self.images(units, count, sampler)
        found = [score(one, images[k : k + 1]) for k, one in enumerate(self._alone)]
        return _Drawn(images, {name: np.array([each[name] for each in found]) for name in found[0]})


def difference(found: Images, exact: Images) -> Loss:
    """Return the root mean square between pictures of each scene, of the range of values: mean and standard error."""
    each = np.sqrt(np.square((found.astype(np.float64) - exact) / 255).mean(axis=(1, 2, 3)))
    return Loss(float(each.mean()), float(each.std(ddof=1)) / len(each) ** 0.5)


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
