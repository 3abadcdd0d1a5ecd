"""Where the weights of preprocessors are: found wherever a program has put them, checked once, fetched on request.

A file is looked for in the store's own folder, then in the folders of hosts and of other preprocessor packages, then
in the cache of the Hugging Face hub. All but the own folder are only read. Nothing is ever downloaded unasked.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from threading import Lock
from typing import cast

from ...core.errors import FileError, PreprocessorError
from ...core.files import read_json, replacing
from .network import Network, WeightFile, file_name, files_of, get_packages, size_of

HUB = "https://huggingface.co/"
COLUMNS = 3  # of the record: size, time, digest
RECORD = "verified.json"  # path -> size, time and digest of what was read in full once
BLOCK = 2**20  # bytes read at once


class Store:
    """The weights of preprocessors below `folder`, with `others` to be read as well.

    With `automatic`, a missing file is downloaded when it is needed, and the program is told of it as in `fetch`;
    otherwise the error says where to get it.
    """

    def __init__(
        self,
        folder: Path,
        others: Sequence[Path] = (),
        *,
        automatic: bool = False,
        progress: Callable[[int, int | None], None] | None = None,
        check_interrupt: Callable[[], None] | None = None,
    ) -> None:
        self.folder = folder
        self.others = tuple(others)
        self.automatic = automatic
        self._progress, self._check_interrupt = progress, check_interrupt
        self._verified: dict[str, list[object]] | None = None
        self._lock = Lock()

    def find(self, file: WeightFile) -> Path | None:
        """Return where the file is, None if nowhere; one of another size than it should have does not count."""
        return next((path for path in self._places(file) if _fits(path, file)), None)

    def locate(self, file: WeightFile) -> Path:
        """Return where the file is, complete and right; PreprocessorError if it is nowhere, or has another digest."""
        path = self.find(file)
        if path is None and self.automatic:
            return self.fetch(file, self._progress, self._check_interrupt)
        if path is None:
            raise PreprocessorError(self.how_to_get(file))
        if file.sha256 and not _converted(path, file) and self._digest(path) != file.sha256:
            raise PreprocessorError(
                f"{path} is not the file it should be: its sha256 is {self._digest(path)}, expected {file.sha256}; "
                "delete it and get it again"
            )
        return path

    def identity(self, file: WeightFile) -> str:
        """Return what tells the file that `locate` gives from any other: its digest, else its place, size and time."""
        path = self.find(file)
        if path is None or (file.sha256 and not _converted(path, file)):
            return file.sha256 or file.name
        status = path.stat()
        return f"{path} {status.st_size} {status.st_mtime_ns}"

    def missing(self, networks: Sequence[Network]) -> tuple[WeightFile, ...]:
        """Return the files of some networks that are nowhere."""
        return tuple(file for file in files_of(networks) if self.find(file) is None)

    def how_to_get(self, file: WeightFile) -> str:
        """Return a sentence with the file's name, size, digest, address and folder."""
        facts = [size] if (size := size_of(file)) else []
        facts += [f"sha256 {file.sha256}" if file.sha256 else "no checksum known, so it cannot be verified"]
        about = f" ({', '.join(facts)})"
        wrong = next((path for path in self._places(file) if path.is_file()), None)
        what = f"the {file.archive.member} in it" if file.archive else "the file"
        found = f" {wrong} is incomplete or another file." if wrong else ""
        package = file.packaged.partition("/")[0]
        brings = f" The package {package} brings such weights too: {get_packages()}" if package else ""
        return (
            f"the weights {file_name(file)}{about} are not there.{found} Download {file.addresses[0]} and put {what} "
            f"at {self.folder / file.name}, or allow the program to download it. Licence: {file.licence}.{brings}"
        )

    def fetch(
        self,
        file: WeightFile,
        progress: Callable[[int, int | None], None] | None = None,
        check_interrupt: Callable[[], None] | None = None,
    ) -> Path:
        """Download the file into the own folder, unless it is there; its path.

        `progress(bytes, total)` is called as it grows. PreprocessorError if no address delivers the right file. The
        file is right or absent, whatever happens; what arrived is kept beside it, and the next call goes on there.
        """
        from .download import download

        if (path := self.find(file)) is not None:
            return path
        target = self.folder / file.name
        addresses = _mirrored(file.addresses)
        download(addresses, target, file.bytes, file.sha256, progress, check_interrupt, file.archive)
        self._remember(target, file.sha256 or None)
        return target

    def _places(self, file: WeightFile) -> Iterator[Path]:
        """Yield every path at which the file may lie, the own folder first."""
        own = self.folder / file.name
        yield own.with_suffix(".safetensors")
        yield own
        for folder in self.others:
            for name in dict.fromkeys((*file.found_as, file.name, file_name(file))):
                yield folder / name
        yield from _in_hub_cache(file.addresses)
        yield from _in_package(file.packaged)

    def _digest(self, path: Path) -> str:
        """Return the sha256 of a file, read in full only if its size or time changed since the last time."""
        status = path.stat()
        known = self._record().get(str(path))
        if known and known[:2] == [status.st_size, status.st_mtime_ns]:
            return str(known[2])
        digest = hashlib.sha256()
        with path.open("rb") as stream:
            while block := stream.read(BLOCK):
                digest.update(block)
        self._remember(path, digest.hexdigest())
        return digest.hexdigest()

    def _remember(self, path: Path, digest: str | None) -> None:
        if digest is None:
            return
        status = path.stat()
        with self._lock:
            record = self._record()
            record[str(path)] = [status.st_size, status.st_mtime_ns, digest]
            if os.access(self.folder, os.W_OK):  # else it is known for this process alone
                with replacing(self.folder / RECORD) as part:
                    part.write_text(json.dumps(record, indent=1), encoding="utf-8")

    def _record(self) -> dict[str, list[object]]:
        if self._verified is None:
            self._verified = _read_record(self.folder / RECORD)
        return self._verified


def _read_record(path: Path) -> dict[str, list[object]]:
    """Return what is known of files, path -> size, time and digest; nothing if it is damaged: it is only a memory."""
    try:
        found = read_json(path, "record of digests")
    except FileError:
        return {}
    table = cast("dict[str, object]", found if isinstance(found, dict) else {})
    rows = {name: cast("list[object]", each) for name, each in table.items() if isinstance(each, list)}
    return {name: each for name, each in rows.items() if len(each) == COLUMNS}


def default_folder() -> Path:
    """Return where our own program keeps weights: `CONTROLSTACK_MODELS`, or a folder in the user's cache."""
    chosen = os.environ.get("CONTROLSTACK_MODELS")
    root = Path(chosen) if chosen else Path.home() / ".cache" / "controlstack"
    return root / "preprocessors"


def _fits(path: Path, file: WeightFile) -> bool:
    if not path.is_file():
        return False
    return _converted(path, file) or file.bytes is None or path.stat().st_size == file.bytes


def _converted(path: Path, file: WeightFile) -> bool:
    """Return whether it is somebody's safetensors of the file, with another size and digest."""
    return path.suffix != Path(file.name).suffix


def _mirrored(addresses: Sequence[str]) -> tuple[str, ...]:
    """Return addresses of the hub at the mirror that `HF_ENDPOINT` names, if it does."""
    mirror = os.environ.get("HF_ENDPOINT", "").rstrip("/")
    if not mirror:
        return tuple(addresses)
    return tuple(address.replace(HUB, mirror + "/", 1) for address in addresses)


def _in_package(packaged: str) -> Iterator[Path]:
    """Yield where an installed package may have a file; the package is not imported."""
    package, _, inside = packaged.partition("/")
    spec = importlib.util.find_spec(package) if package else None
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        yield Path(folder) / inside


def _in_hub_cache(addresses: Sequence[str]) -> Iterator[Path]:
    """Yield where huggingface_hub keeps a file: models--OWNER--NAME/snapshots/COMMIT/PATH."""
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    hub = Path(os.environ.get("HF_HUB_CACHE") or home / "hub")
    for address in addresses:
        if not address.startswith(HUB):
            continue
        repository, _, rest = address.removeprefix(HUB).partition("/resolve/")
        snapshots = hub / f"models--{repository.replace('/', '--')}" / "snapshots"
        inside = rest.partition("/")[2]
        if inside and snapshots.is_dir():
            yield from (snapshot / inside for snapshot in sorted(snapshots.iterdir()))
