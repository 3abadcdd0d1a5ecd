"""Every word of the page has its German and Chinese one, and none is left over."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[2] / "standalone" / "page"


def said_words() -> set[str]:
    """The words in the page's code, and those of the fields that cards show."""
    from controlstack.standalone.studio.offers import IN_SIGHT, further_fields
    from controlstack.units.request import FIELDS

    calls = [
        node
        for path in PAGE.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "t"
    ]
    texts = {each.args[0].value for each in calls if isinstance(each.args[0], ast.Constant)}
    shown = [*(FIELDS[name] for name in (*IN_SIGHT, "effect_mask", "inpaint_mask")), *further_fields()]
    texts |= {each.name.replace("_", " ").capitalize() for each in shown}
    return texts | {each.meaning[0].upper() + each.meaning[1:] for each in further_fields()}


@pytest.mark.parametrize("language", ["de", "zh"])
def test_every_word_is_translated(language: str) -> None:
    import json

    known = json.loads((PAGE / "words" / f"{language}.json").read_text(encoding="utf-8"))
    from_lists = {"Width", "Height", "Columns", "Rows"}  # labels of rows that are built in a loop
    assert said_words() | from_lists == set(known)
    assert all(word.strip() for word in known.values())
