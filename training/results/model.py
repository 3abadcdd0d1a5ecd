"""The trained model on disk: the control network, and beside it what was added to the base's weights.

What a training adds to the base lies in a companion, `NAME_unet_weight_increasements.safetensors`, under diffusers'
names, as the published ControlNeXt trainings write it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ...models.companions import INCREMENTS, OTHER, PAIR
from ...pipelines.bases import DTYPES
from ..recipes.recipe import Foundation
from ..run import Run
from .files import write_tensors

COMPANION = f"_{OTHER}{INCREMENTS}"  # behind the name of the control
FOUNDATION = "_base"  # as well


def write_model(run: Run, path: Path) -> list[Path]:
    """Write the network as it is now, and its companion if there is one; return the files, each whole or not there.

    A process that is killed between the two leaves files that are no pair, which whoever loads them is told.
    """
    dtype = DTYPES[run.settings.dtype]
    about = metadata(run)
    written = [path]
    if delta := run.base_delta():
        companion = companion_path(path)
        tensors = {name: each.to(dtype).contiguous() for name, each in delta.items()}
        pair = {PAIR: _digest(tensors)}
        about |= {"controlstack.companion": companion.name, **pair}
        of_companion = {"controlstack.holds": "increments", "controlstack.trained_over": run.settings.base.name}
        write_tensors(companion, tensors, {**of_companion, **pair})
        written.append(companion)
    if foundation := run.foundation():
        about |= _lay(foundation, run, path, written)
    state = {name: each.to(dtype).contiguous() for name, each in run.control_state().items()}
    write_tensors(path, state, about)
    return written


def _lay(foundation: Foundation, run: Run, path: Path, written: list[Path]) -> dict[str, str]:
    """Write what lies in a file beside the control's, unless it is there; return how the control names it."""
    if foundation.file is not None:
        mark = {PAIR: foundation.mark} if foundation.mark else {}
        return {"controlstack.companion": foundation.file.name, **mark}
    beside = path.with_name(f"{path.stem}{FOUNDATION}{path.suffix}")
    dtype = DTYPES[run.settings.dtype]
    tensors = {name: each.to(dtype).contiguous() for name, each in foundation.tensors.items()}
    pair = {PAIR: _digest(tensors)}
    about = {"controlstack.trained_over": run.settings.base.name, "controlstack.steps": str(run.step)}
    write_tensors(beside, tensors, {**about, **pair})
    written.append(beside)
    return {"controlstack.companion": beside.name, **pair}


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """Return what tells these tensors from those of another step."""
    digest = hashlib.sha256()
    for name, each in sorted(tensors.items()):
        digest.update(name.encode() + each.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def companion_path(path: Path) -> Path:
    """Return where the companion of a control's file lies."""
    return path.with_name(f"{path.stem}{COMPANION}{path.suffix}")


def metadata(run: Run) -> dict[str, str]:
    """Return what a trained file says of itself; what the shapes do not tell is read from here again."""
    settings = run.settings
    given = run.recipe.given(run.base.unet, settings)
    start = settings.start.name if isinstance(settings.start, Path) else settings.start
    said = {
        **{name: str(value).lower() for name, value in given.items()},
        "family": run.recipe.id,
        "trained_over": settings.base.name,
        **({"kinds": " ".join(map(str, settings.kinds))} if settings.kinds else {"hint": str(settings.hints)}),
        **({} if run.recipe.reads_embeddings else {"hint_range": "RGB in 0..1"}),
        "steps": str(run.step),
        **({"ema": str(settings.ema)} if settings.ema else {}),
        **({"start": start} if start else {}),
        **({"unlock": settings.unlock} if settings.unlock else {}),
    }
    return {f"controlstack.{name}": value for name, value in said.items()}
