"""Bars on a terminal; nothing where nobody looks, as in a log file."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")


def bar(items: Iterable[Item], unit: str, total: int | None = None) -> Iterable[Item]:
    """Yield the items, counted as they pass; `total` for those without a length."""
    from tqdm import tqdm

    return tqdm(items, unit=f" {unit}", total=total, leave=total is None, disable=not sys.stderr.isatty())


@contextmanager
def steps_bar(total: int, *, shown: bool) -> Iterator[Callable[[int], None]]:
    """Show a bar of steps, in notebooks too; yield what is called with the number of steps done."""
    from tqdm.auto import tqdm

    with tqdm(total=total, unit=" steps", disable=not shown) as steps:

        def report(done: int) -> None:
            steps.update(done - steps.n)

        yield report


@contextmanager
def download_bar(name: str) -> Iterator[Callable[[int, int | None], None]]:
    """Show a bar of bytes; yield what is called with how many arrived, of how many."""
    from tqdm import tqdm

    with tqdm(desc=name, unit="B", unit_scale=True, disable=not sys.stderr.isatty()) as shown:

        def report(done: int, total: int | None) -> None:
            shown.total = total
            shown.update(done - shown.n)

        yield report
