"""The check before the first step: what would stop a training hours later is found now, and named with its place.

Reading every picture takes time, so large sets are judged by the headers of their files unless the whole check is asked
for; what a header does not show, such as a file that was cut off, then comes up while training.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

from ...core.errors import ControlError, HintError
from ...core.wording import counted
from .example import Bad, Example, size_of
from .hints import Reader

CHEAP = 256 << 20  # bytes of pictures that are read in some ten seconds
SHOWN = 10  # bad examples in a message


class Depth(Enum):
    """How much of an example is read."""

    HEADERS = "the headers of files"
    FILES = "all files"
    HINTS = "all files, and hints made of them"


@dataclass(frozen=True, slots=True)
class Checked:
    """What a check found: the examples that can be used, those that cannot, and how much was read."""

    examples: Sequence[Example]
    bad: Sequence[Bad]
    depth: Depth


def depth_for(examples: Sequence[Example], whole: bool) -> Depth:
    """Return how much to read: everything if it was asked for, all files where that is cheap."""
    if whole:
        return Depth.HINTS
    total = 0
    for example in examples:
        total += sum(size_of(source) for source in example.sources)
        if total > CHEAP:
            return Depth.HEADERS
    return Depth.FILES


def check(examples: Iterable[Example], reader: Reader, depth: Depth, *, alike: bool) -> Checked:
    """Read examples as far as `depth` says, and sort out what cannot be trained on.

    alike: whether all pictures must have one size; then those of another size than the first are bad.
    """
    good: list[Example] = []
    bad: list[Bad] = []
    first: tuple[int, ...] | None = None
    for example in examples:
        try:
            size = _size(example, reader, depth, first if alike else None)
            if alike and first not in (None, size):
                raise HintError(_unequal(size, first or size))
        except ControlError as error:
            bad.append(Bad(example.place, str(error)))
            continue
        first = size if first is None else first
        good.append(example)
    return Checked(good, bad, depth)


def refuse(bad: Sequence[Bad], count: int, advice: str = "mend them, or leave them out with --skip-bad") -> None:
    """Raise HintError that names bad examples, if there are any among `count`. advice: what to do about them."""
    if not bad:
        return
    first: dict[str, Bad] = {}  # of each reason
    for each in bad:
        first.setdefault(each.reason, each)
    shown = list(first.values())[:SHOWN]
    named = "; ".join(str(each) for each in shown)
    more = f"; and {len(bad) - len(shown)} more" if len(bad) > len(shown) else ""
    raise HintError(f"{len(bad)} of {counted(count, 'example')} cannot be used: {named}{more}: {advice}")


def _size(example: Example, reader: Reader, depth: Depth, wanted: tuple[int, ...] | None) -> tuple[int, ...]:
    """Return (height, width) of what is trained on. wanted: of the other examples; None for any."""
    if depth is Depth.HEADERS:
        return reader.headers(example, wanted)
    picture = reader(example)[0] if depth is Depth.HINTS else reader.files(example)[0]
    return reader.size(picture.shape[:2])


def _unequal(size: tuple[int, ...], first: tuple[int, ...]) -> str:
    return (
        f"it is {size[1]}x{size[0]}, the first one {first[1]}x{first[0]}: pictures of a batch need one size; give "
        "--resolution, such as 512, or --batch 1"
    )
