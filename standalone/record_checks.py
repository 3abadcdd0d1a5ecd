"""Whether the record in a picture has the form that we write: somebody may have changed it by hand or by a program.

Each fault is one sentence that names the entry, what stands there, and what is expected.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from ..core.errors import FileError
from ..pipelines.bases import Offload
from ..pipelines.request import Request
from ..units.text import shown
from .asked import PICTURES

ENTRIES: Mapping[str, type] = {
    "base": dict, "request": dict, "units": list, "files": dict, "picture": int, "prompt": str, "seed": int,
}  # fmt: skip
OF_BASE = ("path", "dtype", "device", "offload")  # each text; "prediction" may be missing
WORDS: Mapping[type, str] = {
    dict: "a table", list: "a list", int: "a whole number", str: "text", float: "a number",
}  # fmt: skip


def check_record(path: Path, record: Mapping[str, Any]) -> None:
    """Raise FileError for the first entry of a record that is not as it was written."""
    for name, kind in ENTRIES.items():
        _check(path, name, record, kind)
    for name in OF_BASE:
        _check(path, name, record["base"], str, "base")
    for number, unit in enumerate(record["units"], start=1):
        _check(path, f"unit {number}", {f"unit {number}": unit}, dict)
        if "said" in unit:
            _check(path, "said", unit, dict, f"unit {number}")
            _check(path, "dtype", unit, str, f"unit {number}")
    _check_words(path, record)
    _check_request(path, record["request"])
    _check_picture(path, record)


def _check_words(path: Path, record: Mapping[str, Any]) -> None:
    """Raise FileError for a dtype that PyTorch has not, and for an offload that we have not."""
    dtypes = [record["base"]["dtype"], *(unit["dtype"] for unit in record["units"] if "said" in unit)]
    if wrong := [each for each in dtypes if not isinstance(getattr(torch, each, None), torch.dtype)]:
        raise _wrong(path, "dtype", wrong[0], "one of PyTorch's, such as float32")
    known = [each.value for each in Offload]
    if record["base"]["offload"] not in known:
        raise _wrong(path, "base: offload", record["base"]["offload"], f"one of {', '.join(known)}")


def _check_request(path: Path, request: Mapping[str, Any]) -> None:
    for each in fields(Request):
        if each.name == "prompt":
            several = isinstance(request.get("prompt"), list)
            _check(path, "prompt", request, list if several else str, "request")
        elif each.name == "loras":
            _check(path, "loras", {"loras": request.get("loras", [])}, list, "request")
        elif each.name in request and each.name not in PICTURES:
            _check(path, each.name, request, type(each.default), "request")


def _check_picture(path: Path, record: Mapping[str, Any]) -> None:
    """Raise FileError where number, prompt and seed are not those of one of the request's pictures."""
    request, number = record["request"], record["picture"]
    several = request["prompt"]
    prompts = several if isinstance(several, list) else [several] * request.get("batch", 1)
    if not 0 <= number < len(prompts):
        raise _wrong(path, "picture", number, f"0 to {len(prompts) - 1}, as many as the request has")
    for name, right in (("prompt", prompts[number]), ("seed", request.get("seed", 0) + number)):
        if record[name] != right:
            raise _wrong(path, name, record[name], f"{shown(right)}, as its request says")


def _check(path: Path, name: str, table: Mapping[str, Any], kind: type, inside: str = "") -> None:
    where = f"{inside}: {name}" if inside else name
    if name not in table:
        raise FileError(
            f"the record in '{path}' has no '{where}': it was changed, and the picture cannot be made again"
        )
    value = table[name]
    kinds = (int, float) if kind is float else (kind,)
    if not isinstance(value, kinds) or isinstance(value, bool):
        raise _wrong(path, where, value, WORDS[kind])


def _wrong(path: Path, name: str, value: object, expected: str) -> FileError:
    return FileError(
        f"the record in '{path}' has {shown(value)} as '{name}', expected {expected}: it was changed, and the picture "
        "cannot be made again"
    )
