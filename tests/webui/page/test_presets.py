"""Presets: what is saved comes back, files appear whole, and no name leaves the folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from controlstack.core.errors import ScheduleError, UnitError
from controlstack.scripts.webui.page.choices import display
from controlstack.scripts.webui.page.presets import Presets
from controlstack.units.webui.fields import parse_unit

UNIT = parse_unit(
    {"enabled": True, "module": "canny", "model": "a [01234567]", "weight": 0.5, "curve": "0: 1; 1: 0",
     "threshold_a": 12, "control_mode": 1, "range_basis": "noise", "processor_res": 256, "threshold_b": 99}
)  # fmt: skip


@pytest.fixture
def presets(tmp_path: Path) -> Presets:
    return Presets(tmp_path / "data" / "presets")


def test_a_preset_comes_back_switched_on(presets: Presets) -> None:
    assert presets.names == []
    assert presets.save(" soft edges (2) ", display(UNIT) | {"enabled": False}) == "soft edges (2)"
    assert presets.names == ["soft edges (2)"] and parse_unit(presets.load("soft edges (2)")) == UNIT
    presets.delete("soft edges (2)")
    assert presets.names == []


def test_numbers_of_long_preprocessors_come_back(presets: Presets) -> None:
    unit = parse_unit({"enabled": True, "module": "outpaint", "model": "a", "parameters": {"feather": 3}})
    presets.save("wide", display(unit))
    assert parse_unit(presets.load("wide")).parameters["feather"] == 3


def test_saving_again_replaces_it_and_leaves_no_other_file(presets: Presets, tmp_path: Path) -> None:
    for weight in (0.1, 0.9):
        presets.save("one", display(UNIT) | {"weight": weight})
    assert presets.load("one")["weight"] == 0.9
    assert [path.name for path in (tmp_path / "data" / "presets").iterdir()] == ["one.json"]


def test_a_failure_keeps_the_old_file_and_leaves_no_part(
    presets: Presets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    presets.save("one", display(UNIT))

    def full(*_: Any, **__: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(json, "dump", full)
    with pytest.raises(OSError, match="no space"):
        presets.save("one", display(UNIT) | {"weight": 2})
    assert presets.load("one")["weight"] == 0.5
    assert [path.name for path in (tmp_path / "data" / "presets").iterdir()] == ["one.json"]


@pytest.mark.parametrize(
    "name", ["", " ", "..", "../a", "a/b", "a\\b", ".hidden", "a.", "con", "NUL.txt", "a" * 65, "a:b", "a\nb", None]
)
def test_names_that_are_no_file_of_the_folder(presets: Presets, name: Any) -> None:
    for use in (lambda: presets.save(name, display(UNIT)), lambda: presets.load(name), lambda: presets.delete(name)):
        with pytest.raises(UnitError, match="a preset is called"):
            use()


def test_a_bad_unit_is_not_saved(presets: Presets) -> None:
    with pytest.raises(ScheduleError, match="curve"):
        presets.save("bad", display(UNIT) | {"curve": "up"})
    assert presets.names == []


@pytest.mark.parametrize(
    ("content", "words"),
    [("{", "cannot be read"), ("[]", "no preset"), ('{"version": 1}', "no preset"),
     ('{"version": 7, "unit": {}}', "version 7")],
)  # fmt: skip
def test_a_file_that_is_no_preset(presets: Presets, tmp_path: Path, content: str, words: str) -> None:
    presets.save("one", display(UNIT))
    (tmp_path / "data" / "presets" / "one.json").write_text(content)
    with pytest.raises(UnitError, match=words):
        presets.load("one")


def test_a_preset_that_is_not_there(presets: Presets) -> None:
    presets.save("one", display(UNIT))
    with pytest.raises(UnitError, match="no preset 'two': one"):
        presets.load("two")
