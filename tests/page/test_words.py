"""Every word of the page has its German and Chinese one."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[2] / "standalone" / "page"


def said_words() -> set[str]:
    """The words in the page's code; a new field of units is shown in English until somebody translates it."""
    calls = [
        node
        for path in PAGE.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "t"
    ]
    return {each.args[0].value for each in calls if isinstance(each.args[0], ast.Constant)}


@pytest.mark.parametrize("language", ["de", "zh"])
def test_every_word_is_translated(language: str) -> None:
    known = json.loads((PAGE / "words" / f"{language}.json").read_text(encoding="utf-8"))
    from_lists = {"Width", "Height", "Columns", "Rows"}  # labels of rows that are built in a loop
    assert (said_words() | from_lists) - set(known) == set()
    assert all(word.strip() for word in known.values())
