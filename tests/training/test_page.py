"""A page keeps what people wrote when its made part is made again."""

from __future__ import annotations

from pathlib import Path

from controlstack.training.evaluation.page import BEGIN, replace_made


def test_only_the_made_part_changes(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Title\n\nWords.\n", encoding="utf-8")
    replace_made(page, "first")
    page.write_text(page.read_text(encoding="utf-8") + "\nAfterwards.\n", encoding="utf-8")
    replace_made(page, "second")
    text = page.read_text(encoding="utf-8")
    assert text.startswith("# Title\n\nWords.\n")
    assert text.endswith("Afterwards.\n")
    assert "second" in text and "first" not in text
    assert text.count(BEGIN) == 1


def test_a_page_is_made_where_none_was(tmp_path: Path) -> None:
    replace_made(tmp_path / "page.md", "numbers")
    assert "numbers" in (tmp_path / "page.md").read_text(encoding="utf-8")
