"""The optimisers of a training: what makes each, and what each keeps of a parameter."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib import import_module
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..core.errors import MissingDependencyError

Groups = list[dict[str, Any]]  # of parameters, each with its learning rate

DECAY = 1e-2  # of the weights
FP32, EIGHT_BITS = 4, 1  # bytes of a number


def make_optimiser(name: str, groups: Groups) -> torch.optim.Optimizer:
    """Return the optimiser of a name among choices.OPTIMISERS for groups of parameters with their learning rates."""
    return _MAKERS[name].make(groups)


def _adafactor(groups: Groups) -> torch.optim.Optimizer:
    """Return Adafactor (Shazeer and Stern 2018), whose steps are in proportion to the size of the weights."""
    made: Any = getattr(torch.optim, "Adafactor", None)
    if made is None:
        raise MissingDependencyError("--optimiser adafactor needs PyTorch 2.5 or later: give adamw")
    return made(groups, weight_decay=DECAY)


def bytes_kept(name: str, parameters: Iterable[Tensor]) -> int:
    """Return the bytes that the optimiser keeps of these parameters between steps."""
    return sum(_MAKERS[name].kept(each.shape) for each in parameters)


def _adamw(groups: Groups) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, weight_decay=DECAY)


def _adamw_8bit(groups: Groups) -> torch.optim.Optimizer:
    try:
        eight_bit: Any = import_module("bitsandbytes.optim")
    except ImportError as error:
        raise MissingDependencyError(
            "--optimiser adamw-8bit needs the package 'bitsandbytes': pip install bitsandbytes"
        ) from error
    return eight_bit.AdamW8bit(groups, weight_decay=DECAY)


def _factors(shape: torch.Size) -> int:
    """Return how many numbers Adafactor keeps: of a matrix the means of rows and columns, of a vector all."""
    if len(shape) < 2:
        return shape.numel()
    return shape.numel() // shape[-1] + shape.numel() // shape[-2]


class _Maker(NamedTuple):
    make: Callable[[Groups], torch.optim.Optimizer]
    kept: Callable[[torch.Size], int]  # the shape of a parameter -> bytes


_MAKERS = MappingProxyType({
    "adamw": _Maker(_adamw, lambda shape: 2 * FP32 * shape.numel()),
    "adamw-8bit": _Maker(_adamw_8bit, lambda shape: 2 * EIGHT_BITS * shape.numel()),
    "adafactor": _Maker(_adafactor, lambda shape: FP32 * _factors(shape)),
    "sgd": _Maker(torch.optim.SGD, lambda _shape: 0),
})  # fmt: skip
