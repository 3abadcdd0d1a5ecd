"""PyTorch's old file formats, through its weights-only loader: it builds tensors and refuses everything else.

Such a file is a program for a small machine, so a short one could ask for much: what it unpacks to is bounded by its
own size, before and after it is read.

A training's checkpoint (Lightning) also holds its progress, often as numbers of NumPy and under the class of a
callback. Those are no weights: where a file names them, an empty object takes their place and nothing is imported.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO, cast

import torch
from torch import Tensor

from ...core.errors import DamagedModelError, UnsupportedModelError
from ..guard import guard, shown
from .tensor_table import MAX_TENSORS

DEPTH = 4  # of tables inside tables: {"module": {"state_dict": {...}}}
PROGRESS = (  # what stands in checkpoints beside the weights: module and name, before NumPy 2 and since
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    *((f"numpy.{core}.multiarray", name) for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
    ("pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint"),
    ("lightning.pytorch.callbacks.model_checkpoint", "ModelCheckpoint"),
)
SHARED = 4  # how often the same bytes may stand for a weight: tied weights, and a copy in moving averages


def read_pickle(file: BinaryIO, size: int, name: str, alone: str | None = None) -> dict[str, Tensor]:
    """Return the tensors of an open file, names of tables inside tables joined by dots.

    alone: the name of a tensor that stands in no table; None: such a file is no model.
    DamagedModelError where it holds more than tensors, or cannot be read.
    """
    with guard(name):
        _check_archive(file, size, name)
        try:
            content = _read(file)
        except pickle.UnpicklingError as error:
            raise DamagedModelError(
                f"'{shown(name)}' holds more than tensors and is not opened, for it could run code: "
                "get a .safetensors file"
            ) from error
        except RecursionError:
            raise
        except RuntimeError as error:  # whose words are PyTorch's own, and speak of its archive reader
            raise DamagedModelError(
                f"'{shown(name)}' is damaged or truncated, and PyTorch cannot read it: get the file again"
            ) from error
        if alone is not None and isinstance(content, Tensor):
            content = {alone: content}
        tensors: dict[str, Tensor] = {}
        for key, tensor in _flat(_state_of(content), set()):
            tensors[key] = tensor
            if len(tensors) > MAX_TENSORS:
                raise DamagedModelError(f"'{shown(name)}' holds more than {MAX_TENSORS} tensors: get the file again")
        _check_memory(tensors, size, name)
    if not tensors:
        raise DamagedModelError(f"'{shown(name)}' holds no table of tensors: is it a model file?")
    return tensors


def _read(file: BinaryIO) -> Any:
    """Return what the weights-only loader makes of the file, once more without its progress where it refuses that.

    Only for the second read, and by no name but those of PROGRESS, the loader accepts more than tensors. It is taken
    from where it is defined: WebUIs put one of theirs in the place of `torch.load`, which knows older files alone.
    """
    load = torch.serialization.load
    file.seek(0)
    try:
        return load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        accepted: Any = getattr(torch.serialization, "safe_globals", None)  # since PyTorch 2.5
        if accepted is None:
            raise
    file.seek(0)
    with accepted([type(name, (_Empty,), {"__module__": module}) for module, name in PROGRESS]):
        return load(file, map_location="cpu", weights_only=True)


class _Empty:
    """Stand in for an object of a training's progress: it takes any arguments and any state, and keeps neither."""

    def __init__(self, *arguments: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


def _check_archive(file: BinaryIO, size: int, name: str) -> None:
    """Refuse what PyTorch never writes: compressed or overlapping members, which unpack to more than the file."""
    file.seek(0)
    if not zipfile.is_zipfile(file):
        return
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
    names = {member.filename.split("/", 1)[-1] for member in members}
    if "constants.pkl" in names:
        raise UnsupportedModelError(f"'{shown(name)}' is a TorchScript program, no table of weights: get its weights")
    if "data.pkl" not in names:
        raise UnsupportedModelError(f"'{shown(name)}' is a ZIP archive, no model: unpack it and give a file of it")
    stored = all(member.compress_type == zipfile.ZIP_STORED for member in members)
    if not stored or sum(member.file_size for member in members) > size:
        raise DamagedModelError(
            f"'{shown(name)}' is a compressed archive, which PyTorch does not write: get a .safetensors file"
        )


def _state_of(content: Any) -> Any:
    """Return the weights of a training's checkpoint (Lightning), which lie in a table called `state_dict`."""
    if not isinstance(content, Mapping):
        return content
    state: Any = cast("Mapping[Any, Any]", content).get("state_dict")
    return cast(Any, state if isinstance(state, Mapping) and state else content)


def _flat(content: Any, seen: set[int], prefix: str = "", depth: int = DEPTH) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of tables inside tables; other values, such as a training's progress, are left out.

    seen: the tables that were looked at. Each is once: a small file can hold one in a million places.
    """
    if id(content) in seen:
        return
    seen.add(id(content))
    pairs: Any = ()
    if isinstance(content, Mapping):
        pairs = cast("Mapping[Any, Any]", content).items()
    elif isinstance(content, (list, tuple)):
        pairs = enumerate(cast("list[Any]", content))
    for key, value in pairs:
        if isinstance(value, Tensor):
            yield f"{prefix}{key}", value.detach()
        elif depth and isinstance(value, (Mapping, list, tuple)):
            yield from _flat(value, seen, f"{prefix}{key}.", depth - 1)


def _check_memory(tensors: Mapping[str, Tensor], size: int, name: str) -> None:
    """Refuse tensors that show more values than the file holds, or that are no plain tables of values."""
    for key, tensor in tensors.items():
        plain = tensor.layout is torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized
        if not plain or tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise DamagedModelError(f"'{shown(name)}' holds '{shown(key)}' in a form that is no plain tensor")
    if sum(tensor.nbytes for tensor in tensors.values()) > SHARED * size:
        raise DamagedModelError(f"'{shown(name)}' announces more than it holds: get the file again")
