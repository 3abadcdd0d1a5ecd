"""A ControlNet carried over to another base model: W = W_control + W_to - W_from for every weight that was a copy.

lllyasviel/ControlNet, `tool_transfer_control.py`: what a training has added to its copy of the encoder is added
to the other base's encoder. Hint encoder and zero convolutions, which no base has, stay as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ...core.errors import UnsupportedModelError
from ...core.network.base import check_fits
from ...models.families.controlnet.family import FAMILY
from ...models.family import shapes_of
from ...models.files.loading import read_header
from ...models.naming import to_ldm
from ...models.registry import identify, load_control_model
from ...pipelines.bases import DTYPES, load_pipeline
from .files import write_tensors


def transfer(control: Path, old: Path, new: Path, out: Path, dtype: str) -> int:
    """Write a ControlNet of the base `old` for the base `new`; return how many of its weights were carried over.

    ModelError where control and bases do not fit.
    """
    header = read_header(control)
    if identify(header) is not FAMILY:
        raise UnsupportedModelError(f"'{control.name}' is no ControlNet: only those are copies of a base")
    before, after = _unet_state(old), _unet_state(new)
    model = load_control_model(control, base_state=before, dtype=torch.float32)
    for state in (before, after):
        check_fits(model.name, model.base, FAMILY.base(shapes_of(state)))
    moved = carried(model.network.state_dict(), before, after)
    count = sum(1 for name in moved if name in before)
    kept = {name: value for name, value in header.metadata.items() if name.startswith("controlstack.")}
    about = {**kept, "controlstack.trained_over": new.name, "controlstack.transferred_from": old.name}
    write_tensors(out, {name: each.to(DTYPES[dtype]).contiguous() for name, each in moved.items()}, about)
    return count


def carried(
    state: Mapping[str, Tensor], before: Mapping[str, Tensor], after: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return the control's weights for another base. All by bare ldm names."""
    return {name: each + after[name] - before[name] if name in before else each for name, each in state.items()}


def _unet_state(path: Path) -> dict[str, Tensor]:
    return to_ldm(load_pipeline(path, torch.float32).unet.state_dict())
