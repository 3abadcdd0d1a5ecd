"""One training at a time for one model, since a second one would write over what the first has made."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from ...core.errors import HostError


@contextmanager
def alone(out: Path) -> Iterator[None]:
    """Keep other processes of this machine from training the same model. HostError if one does.

    The lock lies among the system's temporary files, so that nothing more lies beside the model, and is given back by a
    process that is killed.
    """
    name = hashlib.sha256(f"{Path.home()}\n{out.resolve()}".encode()).hexdigest()[:16]
    lock = FileLock(Path(tempfile.gettempdir()) / f"controlstack-{name}.lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise HostError(f"another training is writing '{out}': wait for its end, or give another --out") from None
    try:
        yield
    finally:
        lock.release()
