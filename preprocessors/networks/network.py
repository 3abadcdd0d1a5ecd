"""What a preprocessor needs beside its code: weight files, packages, and the function that makes a network of them.

Declarations only, from the standard library, so that a list of all preprocessors costs nothing. `store.py` finds the
files, `pool.py` keeps the loaded networks.
"""

from __future__ import annotations

import importlib.util
import itertools
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

ABSENT = "absent"  # of a package, as a reason
TORCHVISION = "torchvision"  # of which only the build for the installed torch works, so no command of ours adds it
INSTALLER = Path(__file__).resolve().parents[2] / "install.py"


@dataclass(frozen=True, slots=True, kw_only=True)
class Archive:
    """A zip file in which a weight file is published."""

    member: str  # the end of the name of the one file in it
    bytes: int | None = None  # of the archive itself
    sha256: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightFile:
    """One file: what it is called, how it is recognised, and where it comes from.

    `name` is its path below the store's own folder. `found_as` are its paths below the folders of other programs.
    """

    name: str
    addresses: tuple[str, ...]  # of one and the same file, best first
    licence: str
    bytes: int | None = None  # None: not known; then nothing is compared
    megabytes: float = 0  # about, for people, where nobody has published more; 0: not known
    sha256: str = ""  # lower case hexadecimal; empty: not known
    found_as: tuple[str, ...] = ()
    archive: Archive | None = None  # what the addresses lead to, if that is not the file itself
    packaged: str = ""  # a file that some versions of a package bring and that does as well, as PACKAGE/PATH


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """A network as preprocessors share it: two that name the same `id` get the same object.

    `load(*files)` gets the paths of `files` in their order and returns a torch module on the CPU, or any object that
    computes with numpy and has no device.
    """

    id: str
    files: tuple[WeightFile, ...]
    load: Callable[..., object]
    packages: tuple[str, ...] = ()  # names of modules, with ">=VERSION" or "<VERSION" where it matters
    memory: int = 2000  # bytes that a forward needs for each pixel of a picture, for the size of chunks


def missing_packages(networks: Iterable[Network]) -> str:
    """Return a sentence that names packages that are not installed, or too old; "" if all are. Nothing is imported."""
    needed = [package for network in networks for package in network.packages]
    changed = _site().stat().st_mtime_ns if needed and _site().is_dir() else 0
    lacks = {package: lack for package in needed if (lack := _lack(package, changed))}
    if not lacks:
        return ""
    names = f"it needs {' and '.join(lacks)}"
    if old := [lack for lack in lacks.values() if lack is not ABSENT]:
        return f"{names}, but {' and '.join(old)} is installed, which its program may rely on"
    advice = [get_packages()] if lacks.keys() - {TORCHVISION} else []
    if TORCHVISION in lacks:
        advice.append(f"the build of {TORCHVISION} that was made for the installed PyTorch")
    return f"{names}: {' and '.join(advice)}"


def get_packages() -> str:
    """Return the command that adds all packages of preprocessors to this Python and moves nothing, for a shell."""
    import shlex  # not at the top: a list of all preprocessors would pay for them
    import subprocess

    command = [sys.executable, str(INSTALLER), "preprocessors"]
    return subprocess.list2cmdline(command) if os.name == "nt" else shlex.join(command)


def files_of(networks: Sequence[Network]) -> tuple[WeightFile, ...]:
    """Return all files of some networks, each once."""
    return tuple(dict.fromkeys(file for network in networks for file in network.files))


def licences(networks: Sequence[Network]) -> str:
    """Return the licences of all weights of some networks, each once; "" for none."""
    return "; ".join(dict.fromkeys(file.licence for file in files_of(networks)))


def size_of(file: WeightFile) -> str:
    """Return how large it is, for people, as exactly as it is known; "" if it is not."""
    if file.bytes is not None:
        return f"{file.bytes:,} bytes"
    return f"about {file.megabytes:,g} MB" if file.megabytes else ""


def file_name(file: WeightFile) -> str:
    """Return the last part of its name."""
    return Path(file.name).name


@cache
def _site() -> Path:
    """Return the folder into which pip installs."""
    import sysconfig  # not at the top: a list of all preprocessors would pay for it

    return Path(sysconfig.get_path("purelib"))


@lru_cache(maxsize=1024)
def _lack(package: str, _changed: int) -> str:
    """Return ABSENT, or name and version of what does not fit; "" if `package` is there, in a version that it takes.

    A list of all preprocessors asks for the same packages many times, so an answer holds until pip changes its folder.
    """
    from importlib import metadata  # not at the top: a list of all preprocessors would pay for it

    name, bound, version = _parts(package)
    try:
        if importlib.util.find_spec(name) is None:
            return ABSENT
        found = metadata.version(name) if bound else ""
    except (ImportError, ValueError):  # a parent package that is broken, a module without a spec, no metadata
        return ABSENT
    older = _numbers(found) < _numbers(version)
    return f"{name} {found}" if bound and older == (bound == ">=") else ""


def _parts(package: str) -> tuple[str, str, str]:
    """Return name, kind of bound and version of name>=version or name<version, the last two "" for a mere name."""
    bound = next((each for each in (">=", "<") if each in package), "")
    name, _, version = package.partition(bound) if bound else (package, "", "")
    return name, bound, version


def _numbers(version: str) -> tuple[int, ...]:
    """Return 4.57.0.dev0 as (4, 57, 0)."""
    parts = itertools.takewhile(str.isdigit, version.split("."))
    return tuple(int(part) for part in parts)
