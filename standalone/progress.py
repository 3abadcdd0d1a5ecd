"""Bars on a terminal; nothing where nobody looks, as in a log file."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")


def bar(items: Iterable[Item], unit: str, total: int | None = None) -> Iterable[Item]:
    """The items, counted as they pass; `total` for those without a length."""
    from tqdm import tqdm

    return tqdm(items, unit=f" {unit}", total=total, leave=total is None, disable=not sys.stderr.isatty())


@contextmanager
def download_bar(name: str) -> Iterator[Callable[[int, int | None], None]]:
    """A bar of bytes; the value is called with how many arrived, of how many."""
    from tqdm import tqdm

    with tqdm(desc=name, unit="B", unit_scale=True, disable=not sys.stderr.isatty()) as shown:

        def report(done: int, total: int | None) -> None:
            shown.total = total
            shown.update(done - shown.n)

        yield report
