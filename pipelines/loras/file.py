"""A LoRA as it is named: its file and its weight, such as `detail.safetensors:0.8`. Nothing is read here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ...core.errors import HostError
from ...core.wording import shortest

LARGEST = 10.0  # of a LoRA's weight, in either direction


@dataclass(frozen=True, slots=True)
class Lora:
    """A LoRA file, and how strongly it acts."""

    path: str
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not -LARGEST <= self.weight <= LARGEST:  # NaN fails too
            raise HostError(
                f"the weight of the LoRA {self.path} is {self.weight}, expected {-LARGEST:g} to {LARGEST:g}"
            )

    @property
    def name(self) -> str:
        """Return what people call it: the name of its file."""
        return Path(self.path).stem

    def __str__(self) -> str:
        return f"{self.path}:{shortest(self.weight)}"


def read_lora(text: str) -> Lora:
    """Return the LoRA of a text such as `detail.safetensors:0.8`; without a number its weight is 1."""
    path, colon, number = text.strip().rpartition(":")
    try:
        weight = float(number)
    except ValueError:  # no weight, or the colon of a drive
        path, weight = text.strip(), 1.0
    if not colon or not path:
        path, weight = text.strip(), 1.0
    if not path:
        raise HostError("a LoRA is empty, expected FILE or FILE:WEIGHT")
    return Lora(path, weight)
