"""What a program brings to preprocessors: weights, loaded networks, a cache of results, progress, interruption.

`standalone()` is the one of our own program; hosts make one with their memory manager and folders.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cache

from .cache import ResultCache
from .call import CHUNK_PIXELS
from .declaration import Declaration
from .networks.network import Network, missing_packages
from .networks.pool import Pool
from .networks.store import Store

SHARE = 0.5  # of free memory that one chunk may take; networks differ in what they need


def _nobody(_done: int, _total: int) -> None:
    return None


def _never() -> None:
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """`progress(done, total)` counts pictures; `check_interrupt` raises the host's own interruption."""

    store: Store
    pool: Pool
    cache: ResultCache = field(default_factory=ResultCache)
    progress: Callable[[int, int], None] = _nobody
    check_interrupt: Callable[[], None] = _never

    def ready(self, network: Network) -> AbstractContextManager[object]:
        """The network, loaded, where it computes, while the context is open.

        MissingDependencyError if a package is not installed, PreprocessorError if a file is not there or damaged.
        """
        from ..core.errors import MissingDependencyError

        if reason := missing_packages([network]):
            raise MissingDependencyError(f"{network.id}: {reason}")
        return self.pool.ready(network, self.store)

    def pixels_at_once(self, preprocessor: Declaration) -> int:
        """How many pixels of pictures go through a preprocessor in one chunk."""
        if not preprocessor.networks:
            return CHUNK_PIXELS
        hungriest = max(network.memory for network in preprocessor.networks)
        return max(1, int(SHARE * self.pool.manager.free_memory() / hungriest))


@cache
def standalone() -> Runtime:
    """The runtime of this process: our own folder of weights, the GPU if PyTorch has one."""
    from .networks.pool import PlainManager
    from .networks.store import default_folder

    return Runtime(store=Store(default_folder()), pool=Pool(PlainManager()))
