"""The optimisers of a training: what makes each, and what each keeps of a parameter."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib import import_module
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..core.errors import MissingDependencyError, ScheduleError

Groups = list[dict[str, Any]]  # of parameters, each with its learning rate

DECAY = 1e-2  # of the weights, unless the user says another
PRODIGY_RATE = 1.0  # a factor of the rate that it finds
FP32, EIGHT_BITS = 4, 1  # bytes of a number


def make_optimiser(name: str, groups: Groups, decay: float | None = None) -> torch.optim.Optimizer:
    """Return the optimiser of a name among choices.OPTIMISERS for groups of parameters with their learning rates.

    decay: of the weights; None is the optimiser's usual one.
    """
    maker = _MAKERS[name]
    return maker.make(groups, maker.decay if decay is None else decay)


def usual_rate(name: str) -> float | None:
    """Return the learning rate that an optimiser wants whatever is trained; None for the family's."""
    return _MAKERS[name].rate


def rate_now(optimiser: torch.optim.Optimizer) -> float:
    """Return the learning rate of the control network now; Prodigy has found a part of it."""
    group = optimiser.param_groups[0]
    return float(group["lr"] * group.get("d", 1.0))


def bytes_kept(name: str, parameters: Iterable[Tensor]) -> int:
    """Return the bytes that the optimiser keeps of these parameters between steps."""
    return sum(_MAKERS[name].kept(each.shape) for each in parameters)


def _adamw(groups: Groups, decay: float) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, weight_decay=decay)


def _adamw_8bit(groups: Groups, decay: float) -> torch.optim.Optimizer:
    return _package("adamw-8bit", "bitsandbytes").optim.AdamW8bit(groups, weight_decay=decay)


def _prodigy(groups: Groups, decay: float) -> torch.optim.Optimizer:
    """Return Prodigy (Mishchenko and Defazio 2023), set as in diffusers' trainings; one rate for all weights."""
    rates = sorted({group["lr"] for group in groups})
    if len(rates) > 1:
        raise ScheduleError(
            f"--optimiser prodigy finds one learning rate for all weights, and these learn at {rates[-1]:g} and "
            f"{rates[0]:g}: give --unlock-rate {groups[0]['lr']:g}, or another optimiser, such as adamw"
        )
    made: Any = _package("prodigy", "prodigyopt").Prodigy(groups, use_bias_correction=True, safeguard_warmup=True)
    for group in made.param_groups:  # told here, since it prints a line where it is told earlier
        group["weight_decay"] = decay
    return made


def _adafactor(groups: Groups, decay: float) -> torch.optim.Optimizer:
    """Return Adafactor (Shazeer and Stern 2018), whose steps are in proportion to the size of the weights."""
    made: Any = getattr(torch.optim, "Adafactor", None)
    if made is None:
        raise MissingDependencyError("--optimiser adafactor needs PyTorch 2.5 or later: give adamw")
    return made(groups, weight_decay=decay)


def _sgd(groups: Groups, decay: float) -> torch.optim.Optimizer:
    return torch.optim.SGD(groups, weight_decay=decay)


def _package(name: str, package: str) -> Any:
    try:
        return import_module(package)
    except ImportError as error:
        raise MissingDependencyError(
            f"--optimiser {name} needs the package '{package}': pip install {package}"
        ) from error


def _factors(shape: torch.Size) -> int:
    """Return how many numbers Adafactor keeps: of a matrix the means of rows and columns, of a vector all."""
    if len(shape) < 2:
        return shape.numel()
    return shape.numel() // shape[-1] + shape.numel() // shape[-2]


class _Maker(NamedTuple):
    make: Callable[[Groups, float], torch.optim.Optimizer]
    kept: Callable[[torch.Size], int]  # the shape of a parameter -> bytes
    decay: float = DECAY
    rate: float | None = None


_MAKERS = MappingProxyType({
    "adamw": _Maker(_adamw, lambda shape: 2 * FP32 * shape.numel()),
    "adamw-8bit": _Maker(_adamw_8bit, lambda shape: 2 * EIGHT_BITS * shape.numel()),
    "prodigy": _Maker(_prodigy, lambda shape: 4 * FP32 * shape.numel(), rate=PRODIGY_RATE),
    "adafactor": _Maker(_adafactor, lambda shape: FP32 * _factors(shape)),
    "sgd": _Maker(_sgd, lambda _shape: 0, decay=0.0),
})  # fmt: skip
