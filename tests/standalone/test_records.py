"""A record in a picture that somebody has changed is refused by one sentence that names the entry."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from controlstack.cli import main
from controlstack.pipelines.tiny_world import BASE
from controlstack.preprocessors.images import read_image, write_image
from PIL import Image

Record = dict[str, Any]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture of ours."""
    out = tmp_path_factory.mktemp("drawn")
    small = ["--steps", "1", "--width", "64", "--height", "64", "--seed", "3", "--prompt", "a star"]
    assert main(["generate", "--base", str(BASE), *small, "--output", str(out)]) == 0
    return out / "00001.png"


def _put(*path: str, value: object) -> Callable[[Record], None]:
    def change(record: Record) -> None:
        table = record
        for name in path[:-1]:
            table = table[name]
        table[path[-1]] = value

    return change


def _drop(name: str) -> Callable[[Record], None]:
    def change(record: Record) -> None:
        del record[name]

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_put("units", value=None), "has None as 'units', expected a list"),
        (_put("units", value=[5]), "has 5 as 'unit 1', expected a table"),
        (_put("base", value=5), "has 5 as 'base', expected a table"),
        (_put("base", "path", value=None), "has None as 'base: path', expected text"),
        (_put("request", value=5), "has 5 as 'request'"),
        (_put("request", "steps", value="many"), "has 'many' as 'request: steps', expected a whole number"),
        (_put("request", "prompt", value=5), "has 5 as 'request: prompt'"),
        (_put("files", value=None), "has None as 'files'"),
        (_put("seed", value=None), "has None as 'seed', expected a whole number"),
        (_put("seed", value=4), "has 4 as 'seed', expected 3"),
        (_put("prompt", value=5), "has 5 as 'prompt', expected text"),
        (_put("prompt", value="a disc"), "expected 'a star'"),
        (_put("picture", value=7), "has 7 as 'picture', expected 0 to 0"),
        (_drop("picture"), "has no 'picture'"),
        (_put("base", "dtype", value="nn"), "has 'nn' as 'dtype', expected one of PyTorch's"),
        (_put("base", "offload", value="some"), "has 'some' as 'base: offload', expected one of none, model"),
    ],
)
def test_a_changed_record_is_named(
    drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: Callable[[Record], None], words: str
) -> None:
    with Image.open(drawn) as picture:
        record = json.loads(picture.info["controlstack"])
    change(record)
    write_image(tmp_path / "changed.png", read_image(drawn), {"controlstack": json.dumps(record)})
    assert main(["again", str(tmp_path / "changed.png"), "--output", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert "changed.png" in error
    assert not list((tmp_path / "out").glob("*.png"))
