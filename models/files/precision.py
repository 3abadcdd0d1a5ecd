"""Number formats of weights: which are permitted, 8-bit floats made wider, scaled files read right or refused.

An 8-bit weight is stored plain, or divided by a scale that stands beside it. The old form of scaled files has
`<layer>.scale_weight` and a marker `scaled_fp8`: weight times scale is the true weight. Newer forms have several
scales, blocks of them, or other number formats, and say so by names of their own; they are refused by those names.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import reduce
from typing import TypeVar

import torch
from torch import Tensor

from ...core.errors import DamagedModelError, UnsupportedModelError
from ..guard import shown
from ..names import QUANTISED, last_part

T = TypeVar("T")

PERMITTED = frozenset(  # names of safetensors files
    {"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ"}
)

SCALE, SCALE_OF_INPUT, SCALED = "scale_weight", "scale_input", "scaled_fp8"  # the old form
QUANTISED_METADATA = ("_quantization_metadata", "quantization_config")
LOOK = "get the file in fp16, bf16, fp32 or plain fp8"


def check_quantised(names: Iterable[str], metadata: Mapping[str, str], file: str) -> None:
    """Raise UnsupportedModelError for a file whose weights are no plain numbers, naming what says so."""
    found = next((key for key in QUANTISED_METADATA if key in metadata), None)
    found = found or next((name for name in names if last_part(name) in QUANTISED), None)
    if found is not None:
        raise UnsupportedModelError(f"'{shown(file)}' is quantised ('{shown(found)}'), which is not read: {LOOK}")


def check_types(dtypes: Mapping[str, str], file: str) -> None:
    """Raise UnsupportedModelError unless all weights of a network are of a permitted type."""
    wrong = next((name for name, dtype in dtypes.items() if dtype not in PERMITTED), None)
    if wrong is not None:
        raise UnsupportedModelError(
            f"'{shown(file)}' holds '{shown(wrong)}' as {dtypes[wrong]}, expected numbers with a fraction: {LOOK}"
        )


def without_scales(named: Mapping[str, T]) -> dict[str, T]:
    """Return what remains of a file when the old form's scales and marker are taken out."""
    aside = (SCALE, SCALE_OF_INPUT, SCALED)
    return {name: each for name, each in named.items() if last_part(name) not in aside}


def unscale(tensors: Mapping[str, Tensor], file: str, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """Return the true weights of a file in the old scaled form; those of other files as they are.

    dtype: what the weights are wanted in, None is fp32.
    """
    scales = {name[: -len(SCALE)] + "weight": each for name, each in tensors.items() if last_part(name) == SCALE}
    if alone := next((name for name in scales if name not in tensors), None):
        raise DamagedModelError(f"'{shown(file)}' has a scale, but not the weight '{shown(alone)}': get the file again")
    wide = _wide(dtype)
    scaled = {name: _scaled(name, tensors[name], scale, file).to(wide) for name, scale in scales.items()}
    return without_scales(tensors) | scaled


def widen(tensors: Mapping[str, Tensor], dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """Return weights in a type that layers compute in: not of 8 bits, and one for all unless `dtype` is wanted."""
    found = {tensor.dtype for tensor in tensors.values() if tensor.is_floating_point()}
    narrow = {each for each in found if is_eight_bits(each)}
    if not narrow and (dtype is not None or len(found) <= 1):
        return dict(tensors)
    wide = _wide(dtype) if dtype else reduce(torch.promote_types, (_wide(each) for each in found))
    cast = narrow if dtype else found
    return {name: each.to(wide) if each.dtype in cast else each for name, each in tensors.items()}


def check_finite(tensors: Mapping[str, Tensor], file: str) -> None:
    """Raise DamagedModelError for weights that are NaN or infinite; PyTorch asks only wider types for that."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point():
            asked = tensor.float() if is_eight_bits(tensor.dtype) else tensor
            if not bool(torch.isfinite(asked).all()):
                raise DamagedModelError(
                    f"'{shown(file)}' holds NaN or infinite values in '{shown(name)}': get the file again"
                )


def is_eight_bits(dtype: torch.dtype) -> bool:
    """Return whether a type has 8 bits, in which PyTorch stores and does not compute."""
    return dtype.itemsize == 1


def _wide(dtype: torch.dtype | None) -> torch.dtype:
    return torch.float32 if dtype is None or is_eight_bits(dtype) else dtype


def _scaled(name: str, weight: Tensor, scale: Tensor, file: str) -> Tensor:
    """weight * scale in fp32. scale: one number, or one for each output channel ([out] or [out, 1 ...])."""
    if not (weight.is_floating_point() and scale.is_floating_point()):
        raise UnsupportedModelError(f"'{shown(file)}' holds '{shown(name)}' as scaled whole numbers: {LOOK}")
    wide = scale.float()
    if wide.numel() > 1:
        rows = wide.reshape(-1)
        if not weight.ndim or len(rows) != len(weight):
            raise DamagedModelError(
                f"'{shown(file)}' has {wide.numel()} scales for '{shown(name)}', which is {list(weight.shape)}"
            )
        wide = rows.reshape(-1, *[1] * (weight.ndim - 1))
    return weight.float() * wide.reshape(() if wide.numel() == 1 else wide.shape)
