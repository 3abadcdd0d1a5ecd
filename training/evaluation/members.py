"""Small trained members of other families than ControlNet, tried as `evaluate` tries the tiny world's ControlNets.

Each is measured by what its hint is for, against no control and against the hint of another scene. What says nothing of
places, such as the colours of a picture, is tried beside the edges.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...core.control import ControlModel
from ...core.unit import ControlUnit
from ...models.kinds.unions import OPTION
from ...models.registry import load_control_model
from ...preprocessors import find
from .evaluate import Trial

EDGES, COLOURS, DEPTH = "edge_f1", "colour_accuracy", "depth_error"


@dataclass(frozen=True, slots=True)
class Member:
    """A file of the folder of members, and how it is tried."""

    file: str
    hint: str  # a kind of hint of the trial, or `colours`
    measure: str
    beside: bool = False  # tried beside the edges
    options: Mapping[str, object] = field(default_factory=dict[str, object])

    @property
    def name(self) -> str:
        """Return what its case is called."""
        said = "".join(f" as {value}" for value in self.options.values())
        return f"{'canny + ' if self.beside else ''}{self.file}{said}"


MEMBERS = (
    Member("lllite", "color", COLOURS),
    Member("controlnext", "color", COLOURS),
    Member("controlnet-xs", "color", COLOURS),
    Member("ctrlora", "color", COLOURS),
    Member("ip-adapter", "colours", COLOURS, beside=True),
    Member("union", "canny", EDGES, options={OPTION: "canny"}),
    Member("union", "depth", DEPTH, options={OPTION: "depth"}),
    Member("union", "color", COLOURS, options={OPTION: "tile"}),
)


def other(name: str) -> str:
    """Return the name of the case with another scene's hint."""
    return f"{name} of another scene"


def load_members(folder: Path) -> dict[str, ControlModel]:
    """Return the members that a folder holds, by their files' names."""
    files = {member.file: folder / f"{member.file}.safetensors" for member in MEMBERS}
    return {name: load_control_model(path) for name, path in files.items() if path.is_file()}


def member_cases(
    trial: Trial, members: Mapping[str, ControlModel], canny: ControlModel
) -> dict[str, list[ControlUnit]]:
    """Return the stacks that are compared, by name. canny: the control of edges, for those that are tried beside it."""
    hints = {kind: _pictures(hint) for kind, hint in trial.hints.items()}
    hints["colours"] = torch.from_numpy(np.stack([find("colours")(image) for image in trial.images]))
    edges = ControlUnit(model=canny, hint=hints["canny"])
    found: dict[str, list[ControlUnit]] = {}
    for member in MEMBERS:
        if member.file not in members:
            continue
        model = members[member.file].bind(member.options)
        for name, shift in ((member.name, 0), (other(member.name), 1)):
            unit = ControlUnit(model=model, hint=hints[member.hint].roll(shift, 0))
            found[name] = [edges, unit] if member.beside else [unit]
    return found


def _pictures(images: np.ndarray) -> Tensor:
    """Return pictures [N, H, W, 3] as hints [N, 3, H, W] in 0..1."""
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 255
