"""What the answers of a study say: how often each method was preferred, and its average human rank.

Average human rank, as in the ControlNet paper's table 1: of m methods, m is the best and 1 the worst. It comes from
pairs: for a person, a question and an item, a method's rank is 1 plus the methods that it was preferred to, half of one
for "no difference". An item counts where all its pairs were answered.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from ...core.errors import FileError
from ...core.files import read_json
from .intervals import bootstrap, wilson

LIMIT = 1 << 30  # bytes of a file


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer: which of two methods a person prefers for an item; None is no difference."""

    person: str
    question: str
    item: str
    methods: tuple[str, str]
    preferred: str | None


@dataclass(frozen=True, slots=True)
class Rank:
    """The average rank of a method, 1 (worst) to the number of methods, with its 95 % interval."""

    mean: float
    interval: tuple[float, float]
    count: int  # of ranked items, over all persons


@dataclass(frozen=True, slots=True)
class Preference:
    """How often `one` was preferred to `other`: share of the answers that saw a difference, and its 95 % interval."""

    one: str
    other: str
    wins: int
    losses: int
    same: int

    @property
    def share(self) -> float | None:
        """Return the share; None where nobody saw a difference."""
        return self.wins / (self.wins + self.losses) if self.wins + self.losses else None

    @property
    def interval(self) -> tuple[float, float]:
        """Return the 95 % interval of the share."""
        return wilson(self.wins, self.wins + self.losses)


def read_answers(paths: Sequence[Path], key: Mapping[str, Any]) -> list[Answer]:
    """Return all answers. FileError for files of another study, or given twice."""
    found: list[Answer] = []
    persons: dict[str, Path] = {}
    for path in paths:
        said = read_json(path, "file of answers", limit=LIMIT)
        answers = _checked(said, path, key)
        if said["person"] in persons:
            raise FileError(
                f"'{persons[said['person']]}' and '{path}' are both by '{said['person'][:40]}': give each one's last "
                "file alone"
            )
        persons[said["person"]] = path
        found += [_answer(said["person"], key, trial, chosen) for trial, chosen in answers.items()]
    return found


def _checked(said: Any, path: Path, key: Mapping[str, Any]) -> dict[str, str | None]:
    """Return what a file answers, by trial."""
    table = said if isinstance(said, dict) else {}
    if not isinstance(table.get("answers"), dict) or not isinstance(table.get("person"), str):
        raise FileError(f"'{path}' holds no answers: give a file that the page of the study saved")
    if said.get("study") != key["study"]:
        raise FileError(f"'{path}' answers another study than the key: give the key that was written beside the page")
    for trial, chosen in said["answers"].items():
        if trial not in key["trials"] or chosen not in (None, *key["trials"][trial]["pair"]):
            raise FileError(
                f"'{path}' holds an answer that the study does not have ('{str(trial)[:40]}'): save it again"
            )
    return said["answers"]


def read_key(path: Path) -> dict[str, Any]:
    """Return the key of a study; FileError for another file."""
    key = read_json(path, "key", limit=LIMIT)
    if not isinstance(key, dict) or not {"study", "methods", "questions", "pictures", "trials"} <= set(key):
        raise FileError(f"'{path}' is no key of a study: give the file that was written beside its page")
    return key


def _answer(person: str, key: Mapping[str, Any], trial: str, chosen: str | None) -> Answer:
    asked = key["trials"][trial]
    one, other = (key["pictures"][name] for name in asked["pair"])
    preferred = None if chosen is None else key["pictures"][chosen]["method"]
    question = key["questions"][asked["question"]]
    return Answer(person, question, one["item"], (one["method"], other["method"]), preferred)


def preferences(answers: Sequence[Answer], methods: Sequence[str]) -> list[Preference]:
    """Return the preference within each pair of methods, the first one's side."""
    found: list[Preference] = []
    for one, other in combinations(methods, 2):
        said = [each.preferred for each in answers if set(each.methods) == {one, other}]
        found.append(Preference(one, other, said.count(one), said.count(other), said.count(None)))
    return found


def ranks(answers: Sequence[Answer], methods: Sequence[str]) -> dict[str, Rank]:
    """Return the average human rank of each method; empty where no item has all its pairs answered."""
    items: dict[tuple[str, str], list[Answer]] = defaultdict(list)
    for each in answers:
        items[each.person, each.item].append(each)
    whole = len(methods) * (len(methods) - 1) // 2
    complete = {place: said for place, said in items.items() if len(said) == whole}
    if not complete:
        return {}
    persons = [person for person, _ in complete]
    found: dict[str, Rank] = {}
    for method in methods:
        values = [_rank(method, said) for said in complete.values()]
        found[method] = Rank(sum(values) / len(values), bootstrap(values, _groups(complete, persons)), len(values))
    return found


def _rank(method: str, answers: Sequence[Answer]) -> float:
    own = [each for each in answers if method in each.methods]
    return 1 + sum(1.0 if each.preferred == method else 0.5 if each.preferred is None else 0.0 for each in own)


def _groups(complete: Mapping[tuple[str, str], object], persons: Sequence[str]) -> list[str]:
    """Return what is drawn again: persons; with a single one, items."""
    return list(persons) if len(set(persons)) > 1 else [item for _, item in complete]
