"""Examples as a training takes them: batches of encoded examples, shuffled anew in each epoch.

Which examples a batch holds, and how each is seen, depends on its number and the seed alone: so a training that goes
on, and several processes, see what one whole training would have seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import torch

from .buckets import Buckets
from .encoding import Encoder, Row, Store, stacked
from .example import Example, Image
from .hints import PLAIN, Reader, View

KEPT = 4 << 30  # bytes of encoded examples that stay in memory; the others are read again
VIEWS = 1 << 40  # a seed of views lies beyond those of orders


@dataclass(frozen=True, slots=True)
class Variety:
    """How the views of an example may differ from time to time."""

    mirror: bool = False  # half of them
    crop: bool = False  # any square of the picture

    def view(self, seed: int, index: int) -> View:
        """Return how the index-th example of a training is seen."""
        if not (self.mirror or self.crop):
            return PLAIN
        mirror, across, down = torch.rand(
            3, generator=torch.Generator().manual_seed(VIEWS + (seed << 20) + index)
        ).tolist()
        place = (across, down) if self.crop else (PLAIN.across, PLAIN.down)
        return View(self.mirror and mirror < 0.5, *place)


class Examples:
    """Encoded examples; each is read and encoded once, at its first use, while there is room."""

    def __init__(
        self,
        examples: Sequence[Example],
        reader: Reader,
        encoder: Encoder,
        *,
        variety: Variety | None = None,
        store: Store | None = None,
        workers: int = 0,
        buckets: Buckets | None = None,
    ) -> None:
        """store: keeps encodings on disk. workers: threads that read pictures ahead. buckets: None for one size."""
        self._examples, self._reader, self._encoder = examples, reader, encoder
        self._variety, self._store = variety or Variety(), store
        self._pool = ThreadPoolExecutor(workers) if workers else None
        self._ahead: dict[tuple[int, View], Future[tuple[Image, Image]]] = {}
        self._kept: dict[tuple[int, View], Row] = {}
        self._room = KEPT
        self._epoch, self._order = -1, [0]
        self._buckets = buckets
        self.epoch = len(examples) if buckets is None else buckets.epoch()  # examples, of which some come twice

    def __len__(self) -> int:
        return len(self._examples)

    def batch(self, start: int, count: int, seed: int, source: int = 0) -> Row:
        """Return the examples `start` to `start + count` of all epochs in a row, as one batch [count, ...].

        source: number of what the hints come from.
        """
        return stacked([self.row(*self._pick(index, seed, source)) for index in range(start, start + count)])

    def expect(self, start: int, count: int, seed: int, source: int = 0) -> None:
        """Let workers read the pictures of a later batch; nothing without workers."""
        if self._pool is None:
            return
        for index in range(start, start + count):
            pick, view = self._pick(index, seed, source)
            if (pick, view) not in self._kept and (pick, view) not in self._ahead:
                self._ahead[pick, view] = self._pool.submit(self._reader, self._examples[pick], view)

    def pictures(self) -> Iterator[tuple[Image, Image, str]]:
        """Yield (hint, picture, prompt) of each example in turn; pictures are [H, W, 3], and sources take turns."""
        for number, example in enumerate(self._examples):
            picture, hint = self._reader(example, View(source=number % len(self._reader.sources)))
            yield hint, picture, example.prompt

    def row(self, index: int, view: View = PLAIN) -> Row:
        """Return one encoded example."""
        if (index, view) in self._kept:
            return self._kept[index, view]
        row = self._load(index, view)
        size = sum(tensor.numel() * tensor.element_size() for tensor in row.values())
        if size <= self._room and not self._variety.crop:  # a square is hardly ever seen twice
            self._room -= size
            self._kept[index, view] = row
        return row

    def close(self) -> None:
        """Let the workers end."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def _pick(self, index: int, seed: int, source: int) -> tuple[int, View]:
        """Return which example comes as the index-th, and how it is seen."""
        epoch, place = divmod(index, self.epoch)
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(seed + epoch)
            self._epoch, self._order = epoch, self._shuffled(generator)
        return self._order[place], replace(self._variety.view(seed, index), source=source)

    def _shuffled(self, generator: torch.Generator) -> list[int]:
        if self._buckets is None:
            return torch.randperm(len(self._examples), generator=generator).tolist()
        return self._buckets.order(generator)

    def _load(self, index: int, view: View) -> Row:
        example, ahead = self._examples[index], self._ahead.pop((index, view), None)
        picture, hint = self._reader(example, view) if ahead is None else ahead.result()
        if self._store is None:
            return self._encoder.row(picture, hint, example.prompt)
        key = self._store.key(picture, hint, example.prompt)
        found = self._store.get(key)
        if found is None:
            found = self._encoder.row(picture, hint, example.prompt)
            self._store.put(key, found)
        return found
