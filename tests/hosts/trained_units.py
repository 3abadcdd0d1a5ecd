"""A control model of each family that we train, trained a few steps on a host's small base model by our own command.

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
}
SETTINGS: Mapping[str, Mapping[str, object]] = {
    "ip-adapter": {"module": "colours"},
    "union": {"options": {"union_control_type": "tile"}},
}


def file_of(family: str) -> str:
    return f"trained-{family}"


UNITS: Mapping[str, Wanted] = {
    family: unit(file=file_of(family), weight=0.8, **SETTINGS.get(family, {})) for family in FAMILIES
}


def train_all(checkpoint: Path, controls: Path, folder: Path) -> None:
    """Train each family on the U-Net of a small checkpoint of SD 1.x, in `folder`, into `controls`."""
    torch.manual_seed(0)
    base = replace(new_base(new_autoencoder(), folder), unet=webui_oracle.sd_unet(checkpoint))
    base.save(folder / "base", torch.float32)
    write_dataset(folder / "data", 4, seed=1)
    for family in FAMILIES:
        said = ["train", "--base", str(folder / "base"), "--data", str(folder / "data"), "--family", family]
        said += [*HINTS.get(family, HINT), "--steps", str(STEPS), "--batch", "2", "--learning-rate", str(RATE)]
        said += ["--warm-up", "0", "--empty-prompts", "0", "--out", str(controls / f"{file_of(family)}.safetensors")]
        assert main(said) == 0, family
