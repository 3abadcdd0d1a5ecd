"""Files that appear complete or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from controlstack.core.files import clear_leftovers, replacing


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_file_appears_when_the_context_ends(tmp_path: Path) -> None:
    target = tmp_path / "a.json"
    target.write_text("old")
    with replacing(target, ".json") as part:
        part.write_text("new")
        assert target.read_text() == "old"
        assert part.suffix == ".json"
    assert target.read_text() == "new"
    assert names(tmp_path) == ["a.json"]


def _fail(target: Path, error: type[BaseException]) -> None:
    with replacing(target) as part:
        part.write_text("half")
        raise error


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path, error: type[BaseException]) -> None:
    target = tmp_path / "a.json"
    target.write_text("old")
    with pytest.raises(error):
        _fail(target, error)
    assert target.read_text() == "old"
    assert names(tmp_path) == ["a.json"]


def test_a_name_may_be_as_long_as_the_file_system_allows(tmp_path: Path) -> None:
    target = tmp_path / ("m" * 251 + ".txt")
    with replacing(target) as part:
        part.write_text("new")
    assert names(tmp_path) == [target.name]
    with pytest.raises(OSError, match="name too long"), replacing(tmp_path / ("m" * 256)) as part:
        part.write_text("new")
    assert names(tmp_path) == [target.name]
    with pytest.raises(OSError, match="name too long"), replacing(tmp_path / ("m" * 256) / "a.txt") as part:
        part.write_text("new")


def test_what_a_killed_process_left_is_removed_and_what_others_write_is_not(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        pass
    with replacing(tmp_path / "a.txt", ".txt") as ours:
        ours.write_text("half")
        dead = tmp_path / ours.name.replace(f"-{os.getpid()}-", f"-{ended.pid}-")
        elsewhere = tmp_path / f".ffffffff-{dead.name.partition('-')[2]}"
        dead.write_text("half")
        elsewhere.write_text("half")
        clear_leftovers(tmp_path)
        assert names(tmp_path) == sorted([ours.name, elsewhere.name])
    clear_leftovers(tmp_path / "not there")
