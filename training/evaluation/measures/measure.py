"""What a measure is: it sees drawn pictures one after another and keeps only sums, so sets may be of any size."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ....core.resize import ResizeMode
from ....preprocessors.resize import resize_image

Image = NDArray[np.uint8]


class Better(Enum):
    """Which values of a measure are good."""

    HIGHER = "higher is better"
    LOWER = "lower is better"


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """A drawn picture [H, W, 3] and what it is judged by, each None where it was not given.

    hint: what the control was told. found: the hint that the same preprocessor makes of the drawn picture. picture: the
    example's own, from which the hint was made.
    """

    drawn: Image
    prompt: str | None = None
    hint: Image | None = None
    found: Image | None = None
    picture: Image | None = None


class Measure(ABC):
    """One measure. What it keeps between two pictures is its `state`, from which a later run goes on."""

    @property
    @abstractmethod
    def better(self) -> Mapping[str, Better]:
        """Return which values are good, of every value that it gives, by name."""

    @abstractmethod
    def add(self, sample: Sample) -> Mapping[str, float]:
        """See one drawn picture; return its values, whose means are reported."""

    def refer(self, picture: Image) -> None:
        """See one picture [H, W, 3] of the reference set; most measures need none."""
        return

    def result(self) -> Mapping[str, float]:
        """Return the values that only the whole set has."""
        return {}

    def state(self) -> dict[str, Tensor]:
        """Return what was kept of the pictures seen so far."""
        return {}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state` returned."""
        return


def pair(sample: Sample) -> tuple[Image, Image]:
    """Return (found, wanted): the hint seen in the drawn picture and the one asked for, at the first one's size."""
    assert sample.found is not None and sample.hint is not None
    height, width = sample.found.shape[:2]
    return sample.found, resize_image(sample.hint, (height, width), ResizeMode.JUST_RESIZE)
