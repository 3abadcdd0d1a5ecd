"""What trackers hear, TensorBoard and Weights & Biases, through accelerate: settings, every step, sheets of samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...preprocessors.images import make_folder
from ..run import Run

Image = NDArray[np.uint8]

PROJECT = "controlstack"  # what trackers call it
SUFFIX = ".logs"  # of the folder beside the model
PICTURES: Mapping[str, Callable[[Image], Any]] = MappingProxyType({  # [H, W, 3] -> as a tracker takes pictures
    "tensorboard": lambda picture: picture.transpose(2, 0, 1)[None],
    "wandb": lambda picture: [picture],
})  # fmt: skip


def begin(run: Run, out: Path) -> None:
    """Let the trackers begin in the folder beside the model `out`."""
    folder = out.with_suffix(SUFFIX)
    if run.is_main:
        make_folder(folder)
    run.accelerator.project_configuration.logging_dir = str(folder)
    run.accelerator.init_trackers(PROJECT, config=dict(run.record), init_kwargs={"wandb": {"dir": str(folder)}})


def show_sheet(run: Run, sheet: Image) -> None:
    """Show a sheet of samples [H, W, 3] to the trackers that take pictures."""
    for tracker in run.accelerator.trackers:
        form = PICTURES.get(tracker.name)
        if form is not None:
            tracker.log_images({"samples": form(sheet)}, step=run.step)
