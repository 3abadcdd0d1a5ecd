"""Text and JSON files as other programs write them: read, or refused by one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest
from controlstack.core.errors import FileError
from controlstack.core.files import parse_json, read_json, read_text

WORDS = '{"caption": "Straße"}'


def refused(path: Path, what: str = "caption file", **options: int) -> str:
    with pytest.raises(FileError) as caught:
        read_json(path, what, **options)
    told = str(caught.value)
    assert told.isprintable()
    assert what in told
    assert str(path) in told
    return told


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_utf_8_is_read_with_and_without_a_byte_order_mark(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "a.json").write_text(WORDS, encoding=encoding)
    assert read_text(tmp_path / "a.json", "caption file") == WORDS
    assert read_json(tmp_path / "a.json", "caption file") == {"caption": "Straße"}


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_wide_encodings_are_named(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "a.json").write_text(WORDS, encoding=encoding)
    assert "UTF-16" in refused(tmp_path / "a.json")


def test_another_encoding_is_told_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"a": 1,\n"caption": "Straße"}', encoding="latin-1")
    assert "byte 0xdf in line 2" in refused(tmp_path / "a.json")


@pytest.mark.parametrize(
    ("content", "reason"),
    [("", "no JSON"), ("{", "no JSON"), ("[" * 100_000, "nested too deeply"), ("1" * 10_000, "no JSON")],
)
def test_what_is_no_json_is_refused(tmp_path: Path, content: str, reason: str) -> None:
    (tmp_path / "a.json").write_text(content, encoding="utf-8")
    assert reason in refused(tmp_path / "a.json")


def test_a_file_has_a_limit(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(WORDS, encoding="utf-8")
    size = (tmp_path / "a.json").stat().st_size
    assert read_json(tmp_path / "a.json", "caption file", limit=size) == {"caption": "Straße"}
    assert f"more than {size - 1} bytes" in refused(tmp_path / "a.json", limit=size - 1)


def test_what_cannot_be_opened_is_refused(tmp_path: Path) -> None:
    assert "there is no" in refused(tmp_path / "missing.json")
    assert "is a folder" in refused(tmp_path)
    with pytest.raises(FileError, match="cannot read"):
        read_text(tmp_path / "a\0b", "caption file")


def test_a_line_is_named_by_its_place() -> None:
    assert parse_json("[1]", "line 3 of x.jsonl") == [1]
    with pytest.raises(FileError, match=r"line 3 of x\.jsonl is no JSON"):
        parse_json("[1", "line 3 of x.jsonl")
