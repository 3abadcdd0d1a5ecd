"""One file from the network, right or absent: resumed, locked, checked, and moved to its place in one step.

What has arrived lies beside the target as `NAME.part`, so that a connection, a process or a computer may die at any
moment. Where no digest is known, `NAME.part.version` says what the server called it, so that two versions are never
joined. Proxies are those of the environment (`urllib`).
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import IO, cast

from ...core.errors import PreprocessorError
from .archive import ArchiveError, unpack
from .network import Archive

BLOCK = 2**18  # bytes between two reports
ATTEMPTS = 4  # at one address; each goes on where the last one stopped
PAUSE = 0.5  # seconds before the second attempt, doubled each time
TIMEOUT = 30.0  # seconds without a byte
WAIT = 0.1  # seconds between two looks at a lock that another process holds
RANGE_NOT_SATISFIABLE = 416
TEMPORARY = (408, 429, 500, 502, 503, 504)  # HTTP states that may be others in a moment

Progress = Callable[[int, int | None], None]


def download(
    addresses: Sequence[str],
    target: Path,
    size: int | None,
    sha256: str,
    progress: Progress | None = None,
    check_interrupt: Callable[[], None] | None = None,
    archive: Archive | None = None,
) -> None:
    """Make `target` exist with the right bytes, from the first address that delivers them, or an archive of them.

    Two processes that want one file wait for each other. PreprocessorError with what went wrong at each address.
    """
    check = check_interrupt or _nothing
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _locked(target.with_name(target.name + ".lock"), check):
            if target.is_file():  # the process that we waited for has done it
                return
            wanted = _Wanted(target, size, sha256, progress or _silent, check)
            if archive is not None:
                wanted = _Packed(wanted, archive)
            _check_space(target, wanted.room, wanted.arrived)
            _from_any(addresses, wanted)
    except OSError as error:
        raise PreprocessorError(f"cannot write {target}: {error.strerror or error}") from error


class _Wanted:
    """One download: what is wanted, and who is told."""

    def __init__(
        self, target: Path, size: int | None, sha256: str, progress: Progress, check: Callable[[], None]
    ) -> None:
        self.target, self.size, self.sha256 = target, size, sha256
        self.progress, self.check = progress, check
        self.part = target.with_name(target.name + ".part")
        self._tag = target.with_name(target.name + ".part.version")

    @property
    def room(self) -> int | None:
        """Return the bytes that the disk must have left, if they are known."""
        return self.size

    @property
    def arrived(self) -> int:
        return self.part.stat().st_size if self.part.is_file() else 0

    @property
    def version(self) -> str:
        """Return what the server called the version of which a part is here; "" if a digest tells, or nothing can."""
        return self._tag.read_text(encoding="utf-8") if self._tag.is_file() else ""

    def begins(self, version: str) -> None:
        """Note that a part begins; without a digest, only the server can tell later whether the rest belongs to it."""
        if version and not self.sha256:
            self._tag.write_text(version, encoding="utf-8")
        else:
            self._tag.unlink(missing_ok=True)

    def forget(self) -> None:
        """Throw away what arrived."""
        self.part.unlink(missing_ok=True)
        self._tag.unlink(missing_ok=True)

    def complete(self) -> None:
        """Move the part, which is complete, to its place."""
        self.part.replace(self.target)
        self._tag.unlink(missing_ok=True)


class _Packed(_Wanted):
    """One download of an archive, of which one file is wanted."""

    def __init__(self, inside: _Wanted, archive: Archive) -> None:
        super().__init__(inside.target, archive.bytes, archive.sha256, inside.progress, inside.check)
        self._inside, self._archive = inside, archive

    @property
    def room(self) -> int | None:
        known = (self.size, self._inside.size)
        return sum(each or 0 for each in known)

    def complete(self) -> None:
        """Move the file in the archive to its place; the archive itself is of no more use."""
        wanted = self._inside
        try:
            unpack(self.part, self._archive, wanted.target, wanted.size, wanted.sha256, self.check)
        except ArchiveError as error:
            raise _WrongFileError(str(error)) from error
        self.forget()


class _WrongFileError(Exception):
    """The address serves something else."""


class _BrokenError(Exception):
    """The connection broke, or the server has a bad moment."""


def _from_any(addresses: Sequence[str], wanted: _Wanted) -> None:
    failures: list[str] = []
    for address in addresses:
        try:
            _from_one(address, wanted)
            return
        except (_WrongFileError, _BrokenError) as error:
            failures.append(f"{address}: {error}")
    raise PreprocessorError(
        f"{wanted.target.name} could not be downloaded. {'; '.join(failures)}. "
        f"Try again later, or download it yourself and put it at {wanted.target}"
    )


def _from_one(address: str, wanted: _Wanted) -> None:
    """Try one address until the file is complete; then check it and move it to its place."""
    if not wanted.sha256 and not wanted.version:
        wanted.forget()  # it may be of another version, and nothing could tell
    resumed = wanted.arrived > 0
    for attempt in range(ATTEMPTS):
        try:
            _receive(address, wanted)
            break
        except _BrokenError:
            if attempt + 1 == ATTEMPTS:
                raise
            _sleep(PAUSE * 2**attempt, wanted.check)
    try:
        _finish(wanted)
    except _WrongFileError:
        wanted.forget()
        if not resumed:
            raise
        _from_one(address, wanted)  # the beginning may have come from an older version of the file


def _receive(address: str, wanted: _Wanted) -> None:
    """Append what is missing to the part."""
    start = wanted.arrived
    if wanted.size is not None and start >= wanted.size:
        return
    request = urllib.request.Request(_checked(address), headers={"User-Agent": "controlstack"})
    if start:
        request.add_header("Range", f"bytes={start}-")
        if wanted.version:
            request.add_header("If-Range", wanted.version)
    try:
        with cast("HTTPResponse", urllib.request.urlopen(request, timeout=TIMEOUT)) as response:
            _copy(response, wanted, start if _continues(response, start) else 0)
    except urllib.error.HTTPError as error:
        _explain(error, wanted)
    except urllib.error.URLError as error:
        raise _BrokenError(f"no connection ({error.reason})") from error
    except (HTTPException, TimeoutError, ConnectionError) as error:
        raise _BrokenError(f"the connection broke after {wanted.arrived:,} bytes ({error!r})") from error


def _copy(response: HTTPResponse, wanted: _Wanted, start: int) -> None:
    length = response.headers.get("Content-Length")
    total = start + int(length) if length and length.isdigit() else wanted.size
    if wanted.size is not None and total != wanted.size:
        raise _WrongFileError(f"it has {total:,} bytes there, expected {wanted.size:,}")
    if total is None and not wanted.sha256 and not _has_an_end(response):
        raise _WrongFileError("nobody says how long it is, so nobody could tell whether it arrived complete")
    if not start:
        wanted.begins(_version(response))
    with wanted.part.open("r+b" if start else "wb") as file:
        file.seek(start)
        file.truncate()
        while block := response.read(BLOCK):
            wanted.check()
            file.write(block)
            wanted.progress(file.tell(), total)
            if total is not None and file.tell() > total:
                raise _WrongFileError(f"more than the {total:,} bytes that were expected")
        _to_disk(file)
        if total is not None and file.tell() < total:
            raise _BrokenError(f"the connection broke after {file.tell():,} of {total:,} bytes")


def _has_an_end(response: HTTPResponse) -> bool:
    """Whether a connection that breaks can be told from one that is closed at the end: in chunks, the last is empty."""
    return "chunked" in response.headers.get("Transfer-Encoding", "").lower()


def _version(response: HTTPResponse) -> str:
    """Return the server's name for this version of the file, if it promises that all its bytes are the same."""
    tag = response.headers.get("ETag", "")
    return "" if tag.startswith("W/") else tag


def _continues(response: HTTPResponse, start: int) -> bool:
    """Whether the server goes on where we stopped; many begin again instead."""
    begins = response.headers.get("Content-Range", "").replace("bytes ", "").partition("-")[0]
    return response.status == 206 and begins == str(start)


def _explain(error: urllib.error.HTTPError, wanted: _Wanted) -> None:
    with error:
        if error.code == RANGE_NOT_SATISFIABLE and wanted.arrived:
            if wanted.size is None and wanted.sha256:
                return  # nothing is missing; the digest decides
            wanted.forget()
            raise _BrokenError("what had arrived is longer than the file") from error
        if error.code in TEMPORARY:
            raise _BrokenError(f"the server answers {error.code} {error.reason}") from error
        raise _WrongFileError(f"the server answers {error.code} {' '.join(str(error.reason).split())}") from error


def _finish(wanted: _Wanted) -> None:
    digest = hashlib.sha256()
    with wanted.part.open("rb") as file:
        while block := file.read(BLOCK):
            wanted.check()
            digest.update(block)
    if wanted.sha256 and digest.hexdigest() != wanted.sha256:
        raise _WrongFileError(f"another file is served: its sha256 is {digest.hexdigest()}, expected {wanted.sha256}")
    wanted.complete()


def _check_space(target: Path, size: int | None, arrived: int) -> None:
    """Raise an error unless there is room for what is missing; what has arrived takes no more."""
    free = shutil.disk_usage(target.parent).free
    if size is not None and free < size - arrived:
        raise PreprocessorError(
            f"{target.name} needs {size - arrived:,} bytes, but {target.parent} has only {free:,} left: make room, or "
            "choose another folder"
        )


def _checked(address: str) -> str:
    if urllib.parse.urlsplit(address).scheme not in ("http", "https"):
        raise _WrongFileError("it is no web address")
    return address


def _sleep(seconds: float, check: Callable[[], None]) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        check()
        time.sleep(min(WAIT, seconds))


def _to_disk(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())


@contextmanager
def _locked(path: Path, check: Callable[[], None]) -> Generator[None, None, None]:
    """Hold a lock that ends with the process, however it ends. The file stays: deleting it would race."""
    with path.open("a+b") as file:
        while not _try_lock(file):
            check()
            time.sleep(WAIT)
        yield  # closing the file gives the lock back


def _try_lock(file: IO[bytes]) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt

            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # another process holds it
        return False
    return True


def _nothing() -> None:
    return None


def _silent(_done: int, _total: int | None) -> None:
    return None
