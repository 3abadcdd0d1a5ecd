"""What a preprocessor needs beside its code: weight files, packages, and the function that makes a network of them.

Declarations only, from the standard library, so that a list of all preprocessors costs nothing. `store.py` finds the
files, `pool.py` keeps the loaded networks.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightFile:
    """One file: what it is called, how it is recognised, and where it comes from.

    `name` is its path below the store's own folder. `found_as` are its paths below the folders of other programs.
    """

    name: str
    addresses: tuple[str, ...]  # of one and the same file, best first
    licence: str
    bytes: int | None = None  # None: not known; then nothing is compared
    sha256: str = ""  # lower case hexadecimal; empty: not known
    found_as: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """A network as preprocessors share it: two that name the same `id` get the same object.

    `load(*files)` gets the paths of `files` in their order and returns a torch module on the CPU, or any object that
    computes with numpy and has no device.
    """

    id: str
    files: tuple[WeightFile, ...]
    load: Callable[..., object]
    packages: tuple[str, ...] = ()  # names under which they are imported
    install: str = ""  # what pip would call them, if that differs
    memory: int = 2000  # bytes that a forward needs for each pixel of a picture, for the size of chunks


def missing_packages(networks: Iterable[Network]) -> str:
    """A sentence that names the packages that are not installed; empty if all are. Nothing is imported."""
    absent = [package for network in networks for package in network.packages if not _installed(package)]
    if not absent:
        return ""
    hints = [network.install for network in networks if network.install]
    return f"it needs {' and '.join(dict.fromkeys(absent))}: pip install {' '.join(dict.fromkeys(hints or absent))}"


def files_of(networks: Sequence[Network]) -> tuple[WeightFile, ...]:
    """All files of some networks, each once."""
    return tuple(dict.fromkeys(file for network in networks for file in network.files))


def file_name(file: WeightFile) -> str:
    """The last part of its name."""
    return Path(file.name).name


def _installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):  # a parent package that is broken, or a module without a spec
        return False
