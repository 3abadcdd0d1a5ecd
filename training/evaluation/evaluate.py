"""How well pictures obey units: the tiny world under its shipped controls, against none and against wrong hints.

The pictures are drawn by whoever calls, so that this file knows no pipeline: `draw(units)` returns a picture per scene,
with the same seeds each time. What people do, a prompt and some guidance, is measured beside the harder thing: no
prompt, no guidance, so that nothing but the units can tell what to draw.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...core.control import ControlModel
from ...core.errors import HintError
from ...core.schedule import Schedule
from ...core.unit import ControlUnit
from ...pipelines.tiny_world import CANNY_HIGH, CANNY_LOW, CELL
from ...preprocessors import find
from ..tiny.scenes import Picture, Scene, draw, scenes
from .metrics import colour_accuracy, depth_error, edge_f1

Image = NDArray[np.uint8]
Draw = Callable[[Sequence[ControlUnit]], Image]  # units -> [N, H, W, 3]

SEED = 10_000  # of the scenes; training begins at small seeds
CANNY: dict[str, Any] = {"low": CANNY_LOW, "high": CANNY_HIGH}
CEILING = "the autoencoder alone (ceiling)"
SHEET_SCENES = 6  # more would not be looked at


@dataclass(frozen=True, slots=True)
class Trial:
    """Some scenes, drawn, and their hints [N, H, W, 3] by kind."""

    scenes: tuple[Scene, ...]
    pictures: tuple[Picture, ...]
    hints: Mapping[str, Image]

    @property
    def size(self) -> int:
        return len(self.scenes)

    @property
    def images(self) -> Image:
        """Return the scenes' pictures [N, H, W, 3]."""
        return np.stack([picture.image for picture in self.pictures])


@dataclass(frozen=True, slots=True)
class Condition:
    """How the pictures of a trial are asked for: a prompt for each scene, and the guidance scale."""

    name: str
    prompts: tuple[str, ...]
    guidance: float


def conditions(trial: Trial) -> tuple[Condition, ...]:
    """Return the conditions: prompts with guidance, as people draw, then the units alone."""
    return (
        Condition("with a caption", tuple(scene.caption for scene in trial.scenes), 2.0),
        Condition("without a prompt", ("",) * trial.size, 1.0),
    )


def make_trial(count: int) -> Trial:
    """Return `count` scenes that no training has seen. HintError for less than two: hints are swapped between them."""
    if count < 2:
        raise HintError(f"--scenes is {count}, expected 2 or more: hints of other scenes are tried too")
    some = tuple(scenes(count, SEED))
    pictures = tuple(draw(scene) for scene in some)
    images = np.stack([picture.image for picture in pictures])
    hints = {
        "canny": find("canny")(images, **CANNY),
        "color": find("color_grid")(images, cell=CELL),
        "depth": np.stack([np.repeat(picture.depth[..., None], 3, axis=2) for picture in pictures]),
    }
    return Trial(some, pictures, hints)


def cases(trial: Trial, controls: Mapping[str, ControlModel]) -> dict[str, list[ControlUnit]]:
    """Return the stacks that are compared, by name."""

    def unit(kind: str, shift: int = 0, **settings: object) -> ControlUnit:
        hint = _tensor(np.roll(trial.hints[kind], shift, axis=0))
        return ControlUnit(model=controls[kind], hint=hint, **settings)  # type: ignore[arg-type]

    left = torch.zeros(1, 1, 128, 128)
    left[..., :64] = 1.0
    single = {kind: [unit(kind)] for kind in controls}
    return {
        "none": [],
        **single,
        "canny + color": [unit("canny"), unit("color")],
        **{f"{kind} of another scene": [unit(kind, shift=1)] for kind in controls},
        "canny, weight 0": [unit("canny", weight=0.0)],
        "canny, weight 0.5": [unit("canny", weight=0.5)],
        "canny, steps 0 to 0.5": [unit("canny", schedule=Schedule(end=0.5))],
        "color, left half": [unit("color", mask=left)],
    }


def score(trial: Trial, images: Image) -> dict[str, float]:
    """Return means over the scenes: edges against the canny hint, depth and colours against the scene."""
    edges = find("canny")(images, **CANNY)
    rows = range(trial.size)
    return {
        "edge_f1": _mean(edge_f1(edges[k, ..., 0], trial.hints["canny"][k, ..., 0]) for k in rows),
        "depth_error": _mean(depth_error(images[k], trial.pictures[k].depth) for k in rows),
        "colour_accuracy": _mean(colour_accuracy(images[k], trial.pictures[k].colours) for k in rows),
        "colour_accuracy_left": _mean(
            colour_accuracy(images[k][:, :64], trial.pictures[k].colours[:, :64]) for k in rows
        ),
        "colour_accuracy_right": _mean(
            colour_accuracy(images[k][:, 64:], trial.pictures[k].colours[:, 64:]) for k in rows
        ),
    }


def evaluate(
    trial: Trial,
    controls: Mapping[str, ControlModel],
    drawing: Draw,
    more: Mapping[str, Sequence[ControlUnit]] | None = None,
) -> tuple[dict[str, dict[str, float]], dict[str, Image]]:
    """Return (scores by case, pictures [N, H, W, 3] by case). more: further stacks, by name."""
    images = {name: drawing(units) for name, units in {**cases(trial, controls), **(more or {})}.items()}
    return {name: score(trial, pictures) for name, pictures in images.items()}, images


def table(scores: Mapping[str, Mapping[str, float]]) -> str:
    """Return the scores as a Markdown table."""
    names = next(iter(scores.values())).keys()
    head = f"| case | {' | '.join(name.replace('_', ' ') for name in names)} |"
    rows = [f"| {case} | {' | '.join(f'{value:.3f}' for value in row.values())} |" for case, row in scores.items()]
    return "\n".join([head, f"|{'---|' * (len(names) + 1)}", *rows])


def sheet_rows(trial: Trial, images: Mapping[str, Image]) -> list[list[tuple[str, Image]]]:
    """Return the rows of the sheet: one for each scene, with its hints and the picture of every stack."""
    shown = {"scene": trial.images, **{f"{kind} hint": hint for kind, hint in trial.hints.items()}, **images}
    return [[(name, pictures[k]) for name, pictures in shown.items()] for k in range(min(SHEET_SCENES, trial.size))]


def _tensor(images: Image) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 255


def _mean(values: object) -> float:
    return round(float(np.mean(list(values))), 4)  # type: ignore[call-overload]
