"""safetensors files: a table of names, types, shapes and places, then the bytes of the tensors.

The table is checked before a tensor is read: names are unique, each tensor takes the bytes that its shape and type
need, and together they fill the file without gaps. Format: github.com/huggingface/safetensors, section "Format".
"""

from __future__ import annotations

import json
import math
import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

import torch
from torch import Tensor

from ...core.errors import DamagedModelError, UnsupportedModelError
from ..guard import one_line, shown

MAX_HEADER = 25_000_000  # bytes; a real one has up to 1 MB, and LoRAs some more of metadata
MAX_TENSORS = 8_000  # an SDXL checkpoint with a control model and moving averages has 4 500
MAX_DIMENSIONS = 8
TYPES = {  # names in a file -> names in torch
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "F8_E8M0": "float8_e8m0fnu",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
    "C64": "complex64",
}


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor of a table: its type as the file calls it, and where its bytes lie after the table."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


class TensorTable:
    """A safetensors file, opened for reading; `file` stays the caller's."""

    def __init__(self, file: BinaryIO, size: int, name: str) -> None:
        """Read and check the table; raises DamagedModelError. size: bytes of the file. name: for messages."""
        self._file, self._name = file, shown(name)
        table, self._start = self._read_table(size)
        metadata: Any = table.pop("__metadata__", None) or {}
        if not isinstance(metadata, dict) or len(table) > MAX_TENSORS:
            raise self._damaged(f"it announces {len(table)} tensors, expected up to {MAX_TENSORS}")
        self.metadata = {str(key): str(value) for key, value in cast("dict[str, Any]", metadata).items()}
        self.entries = {key: self._entry(key, value) for key, value in table.items()}
        self._check_places(size - self._start)

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors, mapped from the file: their bytes are read when they are used."""
        if not any(entry.end for entry in self.entries.values()):
            return {name: self._empty(entry) for name, entry in self.entries.items()}
        mapped = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_COPY)
        return {name: self._tensor(mapped, entry) for name, entry in self.entries.items()}

    def _tensor(self, mapped: mmap.mmap, entry: Entry) -> Tensor:
        count = math.prod(entry.shape)
        if not count:
            return self._empty(entry)
        start = self._start + entry.begin
        return torch.frombuffer(mapped, dtype=_torch_type(entry), count=count, offset=start).reshape(entry.shape)

    def _empty(self, entry: Entry) -> Tensor:
        return torch.empty(entry.shape, dtype=_torch_type(entry))

    def _read_table(self, size: int) -> tuple[dict[str, Any], int]:
        """Return the table and where the tensors begin."""
        self._file.seek(0)
        start = self._file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
        if length > min(MAX_HEADER, size - 8):
            raise DamagedModelError(
                f"'{self._name}' is truncated, or no safetensors file: it announces a table of {length} of {size} "
                "bytes: get the file again"
            )
        try:
            table = json.loads(self._file.read(length), object_pairs_hook=_unique)
        except (ValueError, RecursionError) as error:
            raise self._damaged(f"its table is no JSON, {one_line(error)}") from error
        if not isinstance(table, dict):
            raise self._damaged("its table is no JSON object")
        return cast("dict[str, Any]", table), 8 + length

    def _entry(self, name: str, entry: Any) -> Entry:
        try:
            dtype, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        except (KeyError, TypeError, ValueError) as error:
            raise self._damaged(f"its table says no type, shape or place of '{shown(name)}'") from error
        if dtype not in TYPES:
            raise UnsupportedModelError(
                f"'{self._name}' holds '{shown(name)}' in the unknown type '{shown(dtype)}': "
                "get it in fp16, bf16 or fp32"
            )
        if len(shape) > MAX_DIMENSIONS or not all(type(each) is int and each >= 0 for each in (*shape, begin, end)):
            raise self._damaged(f"its table gives '{shown(name)}' a shape or place without sense")
        return Entry(dtype, shape, begin, end)

    def _check_places(self, body: int) -> None:
        """Raise unless tensors have the bytes that they need, one after the other from the table to the file's end."""
        at = 0
        for name, entry in sorted(self.entries.items(), key=lambda each: (each[1].begin, each[1].end)):
            if entry.begin != at or entry.end - entry.begin != math.prod(entry.shape) * _torch_type(entry).itemsize:
                raise self._damaged(f"the place of '{shown(name)}' does not fit its shape or its neighbours")
            at = entry.end
        if at != body:
            raise self._damaged(f"truncated, or changed: its tensors need {at} bytes, it has {body} for them")

    def _damaged(self, why: str) -> DamagedModelError:
        return DamagedModelError(f"'{self._name}' is damaged ({why}): get the file again")


def type_name(dtype: torch.dtype) -> str:
    """Return what a safetensors file calls a type; torch's name for those that have none there."""
    name = str(dtype).removeprefix("torch.")
    return next((short for short, long in TYPES.items() if long == name), name)


def _torch_type(entry: Entry) -> torch.dtype:
    found = getattr(torch, TYPES[entry.dtype], None)
    if found is None:
        raise UnsupportedModelError(f"this PyTorch has no type {entry.dtype}: get the file in fp16, bf16 or fp32")
    return cast(torch.dtype, found)


def _unique(pairs: list[tuple[str, Any]]) -> Mapping[str, Any]:
    """Refuse a name that stands twice: it would let a file show one thing and load another."""
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a name stands twice")
    return table
