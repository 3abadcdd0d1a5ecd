"""What a unit did in a run, in numbers of steps: `Firing`."""

from __future__ import annotations

from dataclasses import dataclass

from .wording import plural


@dataclass(frozen=True, slots=True)
class Firing:
    """On how many of a run's steps a unit acted, and on how many of those it only added what it had computed before.

    in_part: on how many it did so at some of its points, and computed the others.
    """

    fired: int
    steps: int
    reused: int = 0
    in_part: int = 0
    exact: str = ""  # why a unit that may reuse computed every step

    def __str__(self) -> str:
        return f"{self.fired} of {self.steps}"

    @property
    def on_steps(self) -> str:
        """Return on how many steps it acted, with the noun: '6 of 20 steps'."""
        return f"{self} {plural('step', self.steps)}"

    def __add__(self, other: Firing) -> Firing:
        """Return what a unit did in two passes."""
        return Firing(
            self.fired + other.fired,
            self.steps + other.steps,
            self.reused + other.reused,
            self.in_part + other.in_part,
            self.exact or other.exact,
        )

    @property
    def ran(self) -> int:
        """Return on how many steps its network ran."""
        return self.fired - self.reused

    def plain(self) -> dict[str, int]:
        """Return the numbers as JSON can hold them; a unit that reused nothing has none for that."""
        acted = {"fired": self.fired, "steps": self.steps}
        return acted | {name: value for name in ("reused", "in_part") if (value := getattr(self, name))}

    @property
    def remark(self) -> str:
        """Return what is to be said of reuse, to stand behind the sentence; empty for a unit that does not reuse."""
        if self.exact:
            return f" (reused nothing: {self.exact})"
        if not self.reused and not self.in_part:
            return ""
        part = f", {self.in_part} of them in part" if self.in_part else ""
        return f" (ran on {self.ran} of {self.steps}{part}, reused on {self.reused})"
