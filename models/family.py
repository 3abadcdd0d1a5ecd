"""What a family of control networks declares about itself, at the end of its file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..core.base import Base
from ..core.control import ControlModel
from .layers import Kit

Shapes = Mapping[str, tuple[int, ...]]
Settings = Mapping[str, str]  # what no shape tells: from a file's metadata, a JSON file beside it, or the user

# Names of a file -> names of the network; what belongs to no network of the family is left out.
Rename = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
# (network, name, settings, dtype to compute in) -> the control model that a unit holds.
Wrap = Callable[[nn.Module, str, Settings, torch.dtype | None], ControlModel]


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One family, one paper. The functions get the names as they stand in a file, unless said otherwise."""

    id: str
    title: str
    paper: str
    recognises: Callable[[Shapes], bool]
    layout: Callable[[Iterable[str]], str]  # which of the known ways of naming this file follows
    rename: Rename
    base: Callable[[Shapes], Base]  # names of the network
    create: Callable[[Shapes, Settings, Kit], nn.Module]  # names of the network; called on the meta device
    wrap: Wrap
