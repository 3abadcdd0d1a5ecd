"""Numbers and their nouns."""

from __future__ import annotations

import pytest
from controlstack.core.counting import counted
from controlstack.core.firing import Firing


@pytest.mark.parametrize(
    ("count", "noun", "said"),
    [
        (0, "step", "0 steps"), (1, "step", "1 step"), (2, "process", "2 processes"), (3, "batch", "3 batches"),
        (1, "process", "1 process"), (2, "more evaluation", "2 more evaluations"),
    ],
)  # fmt: skip
def test_a_noun_is_counted(count: int, noun: str, said: str) -> None:
    assert counted(count, noun) == said


def test_a_run_of_one_step_is_one_step() -> None:
    assert Firing(1, 1).on_steps == "1 of 1 step"
    assert Firing(3, 4).on_steps == "3 of 4 steps"
