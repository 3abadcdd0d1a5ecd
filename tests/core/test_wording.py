"""Sentences for people: numbers and their nouns, and that a line is one and printable, whatever names it holds."""

from __future__ import annotations

import pytest
from controlstack.core.errors import LONGEST, ControlError, HintError
from controlstack.core.firing import Firing
from controlstack.core.wording import counted, print_line, printable


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


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("ümlaut 猫\u3000²", "ümlaut 猫\u3000²"),  # U+3000 is the blank of Chinese text
        ("a\x1b[2J\nb", "a\\x1b[2J\\nb"),
        ("a\u202eb", "a\\u202eb"),  # text from right to left from here on
        ("a\udcffb", "a\\udcffb"),  # a byte of a file's name that is no UTF-8
        ("\x9b31m", "\\x9b31m"),
    ],
)
def test_control_characters_are_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert str(HintError(text)) == shown
    assert str(HintError(f"{HintError(text)}")) == shown  # told once more, it stays as it is


def test_a_sentence_has_an_end() -> None:
    told = str(ControlError("begin " + "x" * 1_000_000 + ": advice"))
    assert len(told) < LONGEST + 10
    assert told.startswith("begin")
    assert told.endswith("advice")


def test_a_line_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    print_line("wrote a\nb")
    print_line("left out \x1b[31m", error=True)
    assert capsys.readouterr() == ("wrote a\\nb\n", "left out \\x1b[31m\n")
