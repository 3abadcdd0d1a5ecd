"""Another base: a ControlNet acts on a base that it was not trained over, as it is, and carried over."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ....models.registry import load_control_model
from ....pipelines.bases import load_base
from ....pipelines.sheets import sheet
from ...results.files import replace_folder
from ...results.transfer import transfer
from ...tiny.base import averaged, base_training
from ...tiny.base import load_base as load_tiny
from ..experiment import MARGIN, Experiment, Found, Say, Told, Verdict, table
from ..world import CANNY, Image, World
from .asked import FULL, prompts_of

OLD, ALONE, AS_IT_IS, CARRIED = (
    "its own base",
    "other base, no control",
    "other base, as it is",
    "other base, carried over",
)
BATCH, RATE, SEED, SCENES = 8, 1e-3, 3, 500
ROTATED, BACK = (1, 2, 0), (2, 0, 1)  # colour channels of the other base's pictures, and of ours again
SHOWN, SIDE = 2, 96


def other_base(world: World, say: Say) -> Path:
    """Return the folder of a base that draws red where ours draws green, and so on, trained on from ours."""
    folder = world.folder / "other-base"
    if not folder.is_dir():
        torch.manual_seed(SEED)
        base = load_tiny(world.base_path)
        steps = world.sizes.base_steps
        count = min(SCENES, BATCH * steps)
        training = base_training(base, steps, SEED, RATE, batch=BATCH, count=count, look=_rotated)
        for step, loss in enumerate(training.run(steps), start=1):
            say(f"other base: step {step} of {steps}, loss {loss:.4f}")
        with averaged(training):
            replace_folder(folder, base.save)
    return folder


def _rotated(picture: Image) -> Image:
    return np.ascontiguousarray(picture[..., ROTATED])


def _run(world: World, say: Say) -> Found:
    folder = other_base(world, say)
    other = load_base(folder)
    moved = world.folder / "transferred.safetensors"
    transfer(world.controls_path / f"{CANNY}.safetensors", world.base_path, folder, moved, "fp32")
    unit, carried = world.unit(world.controls[CANNY], CANNY), world.unit(load_control_model(moved), CANNY)
    cases = {OLD: ([unit], None), ALONE: ([], other), AS_IT_IS: ([unit], other), CARRIED: ([carried], other)}
    measured: dict[str, Any] = {}
    columns: dict[str, Any] = {"scene": world.trial.images, "hint": world.trial.hints[CANNY]}
    for name, (units, base) in cases.items():
        images = world.draw(units, *prompts_of(world, FULL), base)
        shown = images if base is None else np.ascontiguousarray(images[..., BACK])
        measured[name] = world.obedience(shown)
        columns[name.replace("other base", "other")] = images
        say(f"{name}: {measured[name]}")
    rows = [[(name, images[k]) for name, images in columns.items()] for k in range(min(SHOWN, world.trial.size))]
    return Found(measured, {"pictures": sheet(rows, side=SIDE)})


def _tell(measured: Mapping[str, Any]) -> Told:
    edges = {name: row["edge_f1"] for name, row in measured.items()}
    said = "edge F1 " + ", ".join(f"{name} {value:.3f}" for name, value in edges.items())
    return Told(
        table("canny ControlNet on", measured),
        [
            Verdict(
                "a ControlNet acts on another base without training", edges[AS_IT_IS] > edges[ALONE] + MARGIN, said
            ),
            Verdict("carried over it is no worse than as it is", edges[CARRIED] > edges[AS_IT_IS] - MARGIN, said),
        ],
    )


EXPERIMENT = Experiment(
    name="transfer",
    title="Transfer to another base",
    says=(
        "ControlNet, section 4.5 and figure 12: since the base's topology stays as it is, a trained ControlNet can be "
        "applied to models of the community without training it again; its repository also carries the difference to "
        "the base over (`tool_transfer_control.py`)."
    ),
    tried=(
        "The shipped base, trained on pictures whose colour channels are rotated, draws other colours for the same "
        "words; the shipped canny ControlNet acts on it as it is, and carried over by `controlstack transfer`. Colours "
        "are read after rotating them back."
    ),
    run=_run,
    tell=_tell,
)
