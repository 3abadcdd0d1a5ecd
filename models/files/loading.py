"""Model files, opened once: what a file says of itself, then its tensors. Nothing that a file contains is executed.

What a file is shows in its first bytes, not in its name: safetensors files are judged by their table before a tensor is
read, the old formats go through PyTorch's weights-only loader, and anything else is named.
"""

from __future__ import annotations

import zipfile
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ...core.errors import DamagedModelError, UnsupportedModelError
from ..guard import guard, shown
from .finding import PICKLES, find_weights
from .pickles import read_pickle
from .precision import check_finite
from .tensor_table import Entry, TensorTable, type_name

__all__ = ["PICKLES", "Header", "ModelFile", "open_model", "read_header", "read_tensors"]

START = 64  # bytes that tell what a file is
MAGIC = 4  # bytes that a cut file of PyTorch must have before it can be told from a text
TEXT = frozenset(b"\t\n\r" + bytes(range(32, 127)))
BLANKS = b" \t\r\n\xef\xbb\xbf"  # before the text of a page
KINDS = (  # (first bytes in lower case, what such a file is and what to do)
    (b"\x89png", "a picture (PNG): give a model file"),
    (b"\xff\xd8\xff", "a picture (JPEG): give a model file"),
    (b"gif8", "a picture (GIF): give a model file"),
    (b"riff", "a picture (WebP) or a sound: give a model file"),
    (b"gguf", "a GGUF file with quantised weights, which is not read: get a .safetensors file"),
    (
        b"version https://git-lfs",
        "a pointer of Git LFS, the model itself is missing: run 'git lfs pull', or download it",
    ),
    (b"<!doctype", "a web page, saved in place of the model: download the file itself"),
    (b"<html", "a web page, saved in place of the model: download the file itself"),
    (b"<?xml", "a web page, saved in place of the model: download the file itself"),
    (b"entry not found", "an error message of the Hugging Face hub: download the file itself"),
    (b"{", "a text (JSON), such as the settings of a model: give the model itself"),
    (b"\x08\x07\x12", "an ONNX network: get it as a .safetensors file"),
    (b"\x08\x08\x12", "an ONNX network: get it as a .safetensors file"),
    (b"\x08\x06\x12", "an ONNX network: get it as a .safetensors file"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive: unpack it and give a file of it"),
    (b"rar!", "a RAR archive: unpack it and give a file of it"),
    (b"\x1f\x8b", "a gzip archive: unpack it and give a file of it"),
)
PYTORCH = (b"PK", *(bytes((0x80, protocol)) for protocol in range(2, 6)))  # archives, and pickles of old versions
Part = TensorTable | Mapping[str, Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What a model says of itself before its tensors are read."""

    path: Path  # as it was given: a file or a folder
    weights: Path  # the file with the weights, the first of several
    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, str]  # as safetensors files call them
    metadata: Mapping[str, str]
    size: int  # bytes

    @property
    def name(self) -> str:
        """Return the name of the file or folder, fit for messages."""
        return shown(self.path.name or self.path)


class ModelFile:
    """An open model: its header is read, its tensors can be."""

    def __init__(self, header: Header, parts: Sequence[Part]) -> None:
        self.header = header
        self._parts = parts

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors, on the CPU, each checked to be finite."""
        found: dict[str, Tensor] = {}
        with guard(self.header.name):
            for part in self._parts:
                found |= part.tensors() if isinstance(part, TensorTable) else part
            check_finite(found, self.header.name)
        return found


@contextmanager
def open_model(path: Path) -> Generator[ModelFile]:
    """Open a model file or folder for as long as the context lasts; tensors that were read stay valid after it.

    ModelError for what is no model, or cannot be read.
    """
    with ExitStack() as stack:
        with guard(path.name or str(path)):
            files = find_weights(path)
            parts = [_part(file, stack) for file in files]
            header = _header(path, files, parts)
        yield ModelFile(header, parts)


def read_header(path: Path) -> Header:
    """Return the names and shapes in a model; of a pickle format the whole file has to be read."""
    with open_model(path) as file:
        return file.header


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return all tensors of a model, on the CPU, each checked to be finite."""
    with open_model(path) as file:
        return file.tensors()


def _part(path: Path, stack: ExitStack) -> Part:
    """Open one file and return its table, or the tensors of a pickle; a file of another kind is named."""
    file = stack.enter_context(path.open("rb"))
    size, start = path.stat().st_size, file.read(START)
    name, pickles = shown(path.name), path.suffix.lower() in PICKLES
    if start[8:9] == b"{":
        if pickles:
            raise DamagedModelError(
                f"'{name}' is a safetensors file under another name: rename it to '{shown(path.stem)}.safetensors'"
            )
        return TensorTable(file, size, path.name)
    if kind := next((what for magic, what in KINDS if start.lstrip(BLANKS).lower().startswith(magic)), None):
        raise UnsupportedModelError(f"'{name}' is no control model: it is {kind}")
    if len(start) > MAGIC and all(byte in TEXT for byte in start):
        raise UnsupportedModelError(f"'{name}' is no control model: it is a text: give a model file")
    if start.startswith(PYTORCH):
        if not pickles and not _holds_tensors(path):
            raise UnsupportedModelError(
                f"'{name}' is no control model: it is an archive: unpack it and give a file of it"
            )
        if not pickles:
            raise DamagedModelError(
                f"'{name}' is a PyTorch file (pickle) under another name: get a .safetensors file, or rename it to "
                f"'{shown(path.stem)}.pth'"
            )
        return read_pickle(file, size, path.name)
    if pickles:
        raise DamagedModelError(f"'{name}' is no file of PyTorch, or damaged: get the file again")
    return TensorTable(file, size, path.name)


def _holds_tensors(path: Path) -> bool:
    """Return whether a file that begins like one of PyTorch is one, and not just any zip archive."""
    if not zipfile.is_zipfile(path):
        return True
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("data.pkl") for name in archive.namelist())


def _header(path: Path, files: Sequence[Path], parts: Sequence[Part]) -> Header:
    """Join what the parts of a model say."""
    shapes: dict[str, tuple[int, ...]] = {}
    dtypes: dict[str, str] = {}
    metadata: dict[str, str] = {}
    for file, part in zip(files, parts, strict=True):
        names = part.entries if isinstance(part, TensorTable) else part
        if twice := next((name for name in names if name in shapes), None):
            raise DamagedModelError(
                f"'{shown(file)}' holds '{shown(twice)}', as another part does: get the model again"
            )
        shapes |= {name: tuple(each.shape) for name, each in names.items()}
        dtypes |= {
            name: each.dtype if isinstance(each, Entry) else type_name(each.dtype) for name, each in names.items()
        }
        metadata |= part.metadata if isinstance(part, TensorTable) else {}
    size = sum(file.stat().st_size for file in files)
    return Header(path=path, weights=files[0], shapes=shapes, dtypes=dtypes, metadata=metadata, size=size)
