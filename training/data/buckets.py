"""Aspect-ratio buckets: pictures keep most of their shape, and all pictures of a batch have one size.

A bucket is a size of at most the area of the resolution's square, with sides that every U-Net can halve (NovelAI,
"Aspect ratio bucketing", 2022). Each epoch shuffles every bucket, cuts it into batches and shuffles those; a bucket's
last batch is filled up from its first examples.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch

Size = tuple[int, int]  # height and width in pixels
STEP = 64  # pixels: three halvings of latents
NARROWEST = 4  # long side through short side


def sizes(side: int) -> tuple[Size, ...]:
    """Return the sizes for a resolution: for each height the widest one of no more area."""
    found = {(side, side)}
    for height in range(STEP, side + 1, STEP):
        width = side * side // height // STEP * STEP
        if width and max(width, height) <= NARROWEST * min(width, height):
            found |= {(height, width), (width, height)}
    return tuple(sorted(found))


def size_for(picture: Size, side: int) -> Size:
    """Return the size whose shape is nearest to a picture's."""
    shape = math.log(picture[0] / picture[1])
    return min(sizes(side), key=lambda size: abs(math.log(size[0] / size[1]) - shape))


@dataclass(frozen=True, slots=True)
class Buckets:
    """The size of each example, and how many of one size come after each other."""

    sizes: Sequence[Size]
    together: int

    def epoch(self) -> int:
        """Return how many examples an epoch has."""
        return sum(-(-len(members) // self.together) * self.together for members in self._members())

    def order(self, generator: torch.Generator) -> list[int]:
        """Return the indices of the examples of one epoch, shuffled, `together` of one size after each other."""
        batches: list[list[int]] = []
        for members in self._members():
            shuffled = [members[k] for k in torch.randperm(len(members), generator=generator).tolist()]
            missing = -len(members) % self.together
            filled = shuffled + [shuffled[k % len(shuffled)] for k in range(missing)]
            batches += [filled[start : start + self.together] for start in range(0, len(filled), self.together)]
        return [index for k in torch.randperm(len(batches), generator=generator).tolist() for index in batches[k]]

    def _members(self) -> list[list[int]]:
        found: defaultdict[Size, list[int]] = defaultdict(list)
        for index, size in enumerate(self.sizes):
            found[size].append(index)
        return [found[size] for size in sorted(found)]
