"""What is said to a preprocessor that does not read it, so that nobody waits for an effect that cannot come."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .offer import preprocessor_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..preprocessors import Preprocessor
    from .request import UnitRequest


def unread(request: UnitRequest) -> str:
    """Return a warning about a unit's seed or resolution that changes nothing; empty if there is none.

    That a unit is pixel perfect is often so for all, and not said of those that need no size.
    """
    seed = "" if request.seed is None else f"seed={request.seed}"
    size = "" if request.resolution is None else f"resolution={request.resolution}"
    return "; ".join(unread_by(preprocessor_of(request), seed=seed, resolution=size))


def unread_by(preprocessor: Preprocessor, *, seed: str, resolution: str) -> Iterator[str]:
    """Yield a sentence for each setting that a preprocessor does not read.

    seed, resolution: in the caller's own words, such as "--seed 5"; empty where it is not said.
    """
    if seed and preprocessor.deterministic:
        yield f"{preprocessor.id} uses no random numbers, so {seed} changes nothing: leave it out"
    if resolution and not preprocessor.resizes:
        yield f"{preprocessor.id} works at the picture's own size, so {resolution} changes nothing: leave it out"
