"""A control model of each family that we train, and a few of other starts, made by our own command on a small base.

The steps are few and large: what is tried is that a host reads and runs what a training writes, not that it obeys.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
import webui_oracle
from controlstack.cli import main
from controlstack.training.choices import FAMILIES
from controlstack.training.tiny.autoencoder import new_autoencoder
from controlstack.training.tiny.base import new_base
from controlstack.training.tiny.scenes import write_dataset
from webui_oracle import Wanted
from webui_units import unit

STEPS, RATE = 3, 0.02  # zero convolutions stand one step in the way of what is before them
HINT = ("--hint", "canny")
HINTS: Mapping[str, tuple[str, ...]] = {
    "ip-adapter": ("--hint", "colours"),
    "union": ("--kind", "canny=canny", "--kind", "tile=color_grid"),
    "uni-controlnet": ("--kind", "canny=canny", "--kind", "seg=color_grid"),
}
TRAININGS: Mapping[str, tuple[str, ...]] = {  # the families, and what else a recipe writes
    **{family: ("--family", family, *HINTS.get(family, HINT)) for family in FAMILIES},
    "unlocked": (*HINT, "--unlock", "all", "--unlock-rate", "0.001"),
    "only-middle": (*HINT, "--only-middle"),
    "gaussian": (*HINT, "--start", "gaussian"),
}
SETTINGS: Mapping[str, Mapping[str, object]] = {
    "ip-adapter": {"module": "colours"},
    "union": {"options": {"union_control_type": "tile"}},
    "uni-controlnet": {"options": {"union_control_type": "segmentation"}},
}


def file_of(name: str) -> str:
    return f"trained-{name}"


UNITS: Mapping[str, Wanted] = {
    name: unit(file=file_of(name), weight=0.8, **SETTINGS.get(name, {})) for name in TRAININGS
}


def train_all(checkpoint: Path, controls: Path, folder: Path) -> None:
    """Train all on the U-Net of a small checkpoint of SD 1.x, in `folder`, into `controls`."""
    torch.manual_seed(0)
    base = replace(new_base(new_autoencoder(), folder), unet=webui_oracle.sd_unet(checkpoint))
    base.save(folder / "base", torch.float32)
    write_dataset(folder / "data", 4, seed=1)
    for name, own in TRAININGS.items():
        said = ["train", "--base", str(folder / "base"), "--data", str(folder / "data"), *own]
        said += ["--steps", str(STEPS), "--batch", "2", "--learning-rate", str(RATE), "--warm-up", "0"]
        said += ["--empty-prompts", "0", "--out", str(controls / f"{file_of(name)}.safetensors")]
        assert main(said) == 0, name
