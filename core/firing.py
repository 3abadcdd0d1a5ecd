"""What a unit did in a run, in numbers of steps: `Firing`."""

from __future__ import annotations

from dataclasses import dataclass

from .wording import plural


@dataclass(frozen=True, slots=True)
class Firing:
    """On how many of a run's steps a unit acted, and on how many of those it only added what it had computed before."""

    fired: int
    steps: int
    reused: int = 0
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
            self.fired + other.fired, self.steps + other.steps, self.reused + other.reused, self.exact or other.exact
        )

    @property
    def ran(self) -> int:
        """Return on how many steps its network ran."""
        return self.fired - self.reused

    def plain(self) -> dict[str, int]:
        """Return the numbers as JSON can hold them; a unit that reused nothing has none for that."""
        acted = {"fired": self.fired, "steps": self.steps}
        return {**acted, "reused": self.reused} if self.reused else acted

    @property
    def remark(self) -> str:
        """Return what is to be said of reuse, to stand behind the sentence; empty for a unit that does not reuse."""
        if self.exact:
            return f" (reused nothing: {self.exact})"
        return f" (ran on {self.ran} of {self.steps}, reused on {self.reused})" if self.reused else ""
