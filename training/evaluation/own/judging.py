"""One pass over the reference set and the drawn pictures: every measure sees each; the state is saved now and then."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ....core.errors import HostError
from ....preprocessors.images import read_image
from ...data.hints import Reader
from ...results.checkpoints import read_checkpoint, write_checkpoint
from ..measures.measure import Image, Measure, Sample
from .items import Bar, Item

HOLDS = "judged"  # what tells a state of ours


@dataclass(slots=True)
class Judging:
    """What is judged, by what, and how far it has come."""

    items: Sequence[Item]
    references: Sequence[Path]
    measures: Sequence[Measure]
    reader: Reader | None = None  # of examples, where there are any
    has_hints: bool = False
    detect: Callable[[Image], Image] | None = None  # drawn picture -> hint
    record: Mapping[str, str] = field(default_factory=dict)  # of what a later run must share with this one
    referred: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)  # of each judged picture: its name, and values by name

    def sample(self, item: Item) -> Sample:
        """Return a picture with all that it is judged by."""
        drawn = read_image(item.drawn)
        if item.example is None or self.reader is None:
            return Sample(drawn)
        picture, hint = self.reader(item.example)
        if not self.has_hints or self.detect is None:
            return Sample(drawn, item.example.prompt, hint if self.has_hints else None, None, picture)
        return Sample(drawn, item.example.prompt, hint, self.detect(drawn), picture)

    def run(self, state: Path, every: int, bar: Bar, interrupted: Callable[[], bool]) -> bool:
        """Judge what is left; return whether it came to the end. `interrupted` is asked after each picture."""
        for path in bar(self.references[self.referred :], "reference pictures seen"):
            picture = read_image(path)
            for measure in self.measures:
                measure.refer(picture)
            self.referred += 1
            if self._pause(self.referred, state, every, interrupted):
                return False
        for item in bar(self.items[len(self.rows) :], "pictures judged"):
            sample = self.sample(item)
            values: dict[str, float] = {}
            for measure in self.measures:
                values |= measure.add(sample)
            self.rows.append({"name": item.name, "values": values})
            if self._pause(len(self.rows), state, every, interrupted):
                return False
        return True

    def load(self, path: Path) -> None:
        """Go on from a saved state. HostError where it was made with other settings."""
        state = read_checkpoint(path, HOLDS)
        changed = [name for name, value in self.record.items() if state["record"].get(name) != value]
        if changed:
            raise HostError(
                f"'{path}' was made with other settings ({', '.join(changed)}): give them as at its start, or leave "
                "--resume out to start from the beginning"
            )
        self.referred, self.rows = state["referred"], state[HOLDS]
        for measure, kept in zip(self.measures, state["measures"], strict=True):
            measure.load(kept)

    def save(self, path: Path) -> None:
        """Write the state, whole or not at all."""
        kept = [measure.state() for measure in self.measures]
        write_checkpoint(
            path, {"record": dict(self.record), "referred": self.referred, HOLDS: self.rows, "measures": kept}
        )

    def _pause(self, done: int, state: Path, every: int, interrupted: Callable[[], bool]) -> bool:
        stop = interrupted()
        if stop or done % every == 0:
            self.save(state)
        return stop
