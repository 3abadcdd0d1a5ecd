"""The second file of a control: weights of the base model that were trained with its network.

It lies in the same folder and is found by its name: that of the control with `unet` behind it or in place of
`controlnet` or `controlnext`, as trainings write the two (`controlnet.safetensors` beside `unet.safetensors`). It holds
weights, whole or as what was added to them ("increasements", as the trainings call it), by the names of diffusers or of
ldm.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

from torch import Tensor

from ..core.errors import DamagedModelError, IncompatibleModelError, ModelError
from ..core.network.effects import WeightDelta
from .files.finding import PICKLES, SAFETENSORS
from .files.loading import Header, open_model, read_header
from .files.precision import unscale
from .guard import shown
from .naming import to_ldm

T = TypeVar("T")

INCREMENTS = "_weight_increasements"  # behind the name, as the trainings write differences
OWN_NAMES = ("controlnet", "controlnext")  # in whose place a companion has the other
OTHER = "unet"
PREFIXES = ("model.diffusion_model.", "diffusion_model.", "module.", "unet.")
PAIR = "controlstack.pair"  # in the metadata of both files: what tells pairs apart
COMPARED = 4  # weights that tell whole ones from differences
ALIKE = 0.5  # a whole weight is nearer to the base's than this share of its own length; a difference is not


def companion_of(path: Path, said: str | None) -> Path | None:
    """Return the companion of a control's file; None where none lies beside it. said: its name, from the settings."""
    if said is not None:
        file = path.with_name(said)
        if not file.is_file():
            raise ModelError(f"there is no '{shown(said)}' beside '{shown(path.name)}', which names it: put it there")
        return file
    candidates = (path.with_name(stem + suffix) for stem in _stems(path.stem) for suffix in (SAFETENSORS, *PICKLES))
    return next((file for file in candidates if file.is_file() and file != path), None)


def names_of(path: Path) -> frozenset[str]:
    """Return the bare ldm names of a companion's weights; of a safetensors file only the table is read."""
    return frozenset(_bare(read_header(path).shapes))


def read_delta(path: Path, control: Header, holds: str | None, base: Mapping[str, Tensor] | None) -> WeightDelta:
    """Return what the companion of a control changes in the base. ModelError for two files that are no pair.

    holds: 'weights' or 'increments'; None: it is seen by comparing with the base, or by the file's name. base: weights
    of the base U-Net by bare ldm names, which whole weights need.
    """
    with open_model(path) as file:
        check_pair(control, file.header)
        state = _bare(unscale(file.tensors(), file.header.name, None))
    if not state or not all(each.is_floating_point() for each in state.values()):
        raise DamagedModelError(f"'{shown(path.name)}' holds no weights of a base model: get the file again")
    if base is not None:
        _check(path, state, base)
    if holds is None:
        holds = _holds(path, state, base)
    if holds == "increments":
        return WeightDelta(tensors=state)
    if base is None:
        raise ModelError(f"'{shown(path.name)}' holds whole weights: load the control together with its base model")
    return WeightDelta(tensors=dict(_differences(state, base)))


def check_pair(control: Header, companion: Header) -> None:
    """Raise ModelError for files of which both say with what they were written, and it is not each other."""
    marks = {header.metadata.get(PAIR) for header in (control, companion)} - {None}
    if len(marks) > 1:
        raise ModelError(
            f"'{shown(control.name)}' and '{shown(companion.name)}' were not written together, by one training at one "
            "step: take both from one snapshot, or go on with --resume, which writes both"
        )


def _stems(stem: str) -> Iterator[str]:
    """Yield the names that the companion of a control of this name may have."""
    replaced = (stem.replace(own, OTHER) for own in OWN_NAMES if own in stem)
    for name in (*replaced, f"{stem}_{OTHER}", f"{stem}-{OTHER}", f"{stem}.{OTHER}"):
        yield from (name, name + INCREMENTS)


def _bare(named: Mapping[str, T]) -> dict[str, T]:
    """Return weights of a U-Net by bare ldm names."""
    for prefix in PREFIXES:
        if all(name.startswith(prefix) for name in named):
            named = {name[len(prefix) :]: each for name, each in named.items()}
    return to_ldm(named) if _is_diffusers(named) else dict(named)


def _is_diffusers(names: Collection[str]) -> bool:
    return any(name.startswith(("down_blocks.", "up_blocks.", "mid_block.")) for name in names)


def _check(path: Path, state: Mapping[str, Tensor], base: Mapping[str, Tensor]) -> None:
    """Raise IncompatibleModelError unless the base has each of these weights."""
    for name, each in state.items():
        if name not in base or base[name].shape != each.shape:
            there = list(base[name].shape) if name in base else "no such weight"
            raise IncompatibleModelError(
                f"'{shown(path.name)}' changes '{shown(name)}' {list(each.shape)} of its base model, the loaded one "
                f"has {there}: load the base that it was trained with"
            )


def _holds(path: Path, state: Mapping[str, Tensor], base: Mapping[str, Tensor] | None) -> str:
    if base is None:
        if path.stem.endswith(INCREMENTS):
            return "increments"
        raise ModelError(
            f"'{shown(path.name)}' may hold whole weights or differences: load the control together with its base "
            "model, or say it in the setting 'companion_holds'"
        )
    some = sorted(state, key=lambda name: -state[name].numel())[:COMPARED]
    length = sum(state[name].float().square().sum() for name in some)
    apart = sum((state[name].float() - base[name].float().cpu()).square().sum() for name in some)
    return "weights" if apart < ALIKE**2 * length else "increments"


def _differences(state: Mapping[str, Tensor], base: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Yield what whole weights add to the base's, where that is anything; a file may hold the whole network."""
    for name, each in state.items():
        difference = (each.float() - base[name].float().cpu()).to(each.dtype)
        if difference.any():
            yield name, difference
