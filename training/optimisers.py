"""The optimisers of a training: what makes each, and what each keeps of a parameter."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from ..core.errors import MissingDependencyError

DECAY = 1e-2  # of the weights
FP32, EIGHT_BITS = 4, 1  # bytes of a number


def make_optimiser(name: str, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """Return the optimiser of a name among choices.OPTIMISERS for groups of parameters with their learning rates."""
    if name == "sgd":
        return torch.optim.SGD(groups)
    if name == "adamw":
        return torch.optim.AdamW(groups, weight_decay=DECAY)
    if name == "adafactor":
        return _adafactor(groups)
    try:
        eight_bit: Any = import_module("bitsandbytes.optim")
    except ImportError as error:
        raise MissingDependencyError(
            f"--optimiser {name} needs the package 'bitsandbytes': pip install bitsandbytes"
        ) from error
    return eight_bit.AdamW8bit(groups, weight_decay=DECAY)


def _adafactor(groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """Return Adafactor (Shazeer and Stern 2018), whose steps are in proportion to the size of the weights."""
    made: Any = getattr(torch.optim, "Adafactor", None)
    if made is None:
        raise MissingDependencyError("--optimiser adafactor needs PyTorch 2.5 or later: give adamw")
    return made(groups, weight_decay=DECAY)


def bytes_kept(name: str, parameters: Iterable[Tensor]) -> int:
    """Return the bytes that the optimiser keeps of these parameters between steps."""
    if name == "adafactor":
        return sum(_factors(each.shape) for each in parameters) * FP32
    moments = {"adamw": 2 * FP32, "adamw-8bit": 2 * EIGHT_BITS, "sgd": 0}[name]
    return sum(each.numel() for each in parameters) * moments


def _factors(shape: torch.Size) -> int:
    """Return how many numbers Adafactor keeps: of a matrix the means of rows and columns, of a vector all."""
    if len(shape) < 2:
        return shape.numel()
    return shape.numel() // shape[-1] + shape.numel() // shape[-2]
