"""Entries of a text listing, each with the line where it begins: JSON in any arrangement, comma-separated values."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...core.errors import FileError
from ...core.files import read_text

LIMIT = 4 << 30  # bytes of a listing; one of ten million lines has less
DELIMITERS = ",;\t"  # of comma-separated values, by program and country
_BETWEEN = re.compile(r"[\s,]*")
_REST = re.compile(r"[^\n]*")


@dataclass(frozen=True, slots=True)
class Entry:
    """What stands at a line of a listing: a value, or why there is none."""

    line: int
    value: Any = None
    fault: str | None = None


def read_json_entries(path: Path) -> Iterator[Entry]:
    """Yield the values of a file of JSON: one a line, one over many lines, or the elements of one array.

    What is no JSON is an entry with a fault, and reading goes on with the next line.
    FileError if the file cannot be read, or is no text in UTF-8.
    """
    text = read_text(path, "list of examples", limit=LIMIT)
    decoder = json.JSONDecoder()
    start = _BETWEEN.match(text)
    at, line, counted = start.end() if start else 0, 1, 0
    array = text.startswith("[", at)
    at += array
    while True:
        between = _BETWEEN.match(text, at)
        at = between.end() if between else at
        if at >= len(text) or (array and text[at] == "]"):
            return
        line, counted = line + text.count("\n", counted, at), at
        try:
            value, at = decoder.raw_decode(text, at)
            yield Entry(line, value)
        except (ValueError, RecursionError) as error:
            rest = _REST.match(text, at)
            at = rest.end() if rest else len(text)
            yield Entry(line, fault=f"this is no JSON ({str(error).partition(':')[0].lower()})")


def read_csv_entries(path: Path) -> Iterator[Entry]:
    """Yield rows of comma-separated values as tables by the names in the first one. Errors as `read_json_entries`."""
    lines = read_text(path, "list of examples", limit=LIMIT).splitlines(keepends=True)
    if not lines:
        return
    delimiter = max(DELIMITERS, key=lines[0].count)
    rows = csv.reader(lines, delimiter=delimiter)
    try:
        names = next(rows)
        before = rows.line_num
        for row in rows:
            line, before = before + 1, rows.line_num
            if len(row) not in (0, len(names)):
                yield Entry(line, fault=f"it has {len(row)} values, expected {len(names)}")
            elif row:
                yield Entry(line, dict(zip(names, row, strict=True)))
    except csv.Error as error:
        raise FileError(f"line {rows.line_num} of '{path}' is no row of comma-separated values ({error})") from error
