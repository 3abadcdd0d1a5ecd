"""Every model file has a name of its own in a WebUI, and short and older names mean one file or are refused."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path
from typing import Any

import pytest
from controlstack.core.errors import ModelError
from controlstack.scripts.webui.host.files import HASH_LENGTH, HASH_OFFSET, ModelFiles, short_hash
from controlstack.units.webui import infotext
from controlstack.units.webui.fields import UnitArgs

EMPTY = "e3b0c442"  # the hash of every file under 1 MiB


def written(folder: Path, *names: str) -> ModelFiles:
    """Return the list of small files of these names, of which no two hold the same."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    return ModelFiles([folder])


def test_small_files_of_one_stem_are_named_by_their_folders(tmp_path: Path) -> None:
    files = written(tmp_path, "sd15/small.safetensors", "sdxl/small.safetensors", "other.safetensors")
    assert files.names == [f"other [{EMPTY}]", f"sd15/small [{EMPTY}]", f"sdxl/small [{EMPTY}]"]
    for name in files.names[1:]:
        folder = name.partition("/")[0]
        for said in (
            name,
            name.upper(),
            f"{folder}/small",
            f"{folder}/small.safetensors",
            f"{folder}/small [deadbeef]",
        ):
            assert files.find(said) == (name, tmp_path / folder / "small.safetensors")
        text = infotext.write_unit(UnitArgs(model=name))
        assert infotext.read_unit(text)["model"] == name


@pytest.mark.parametrize("said", [f"small [{EMPTY}]", "small", "SMALL.safetensors", "smal", "small [deadbeef]"])
def test_a_name_that_two_files_share_is_refused_by_naming_both(tmp_path: Path, said: str) -> None:
    files = written(tmp_path, "sd15/small.safetensors", "sdxl/small.safetensors")
    with pytest.raises(ModelError, match=re.escape(f"say sd15/small [{EMPTY}] or sdxl/small [{EMPTY}]")):
        files.find(said)


def test_as_much_of_a_path_is_named_as_tells_files_apart(tmp_path: Path) -> None:
    files = written(tmp_path, "a/new/x.pth", "b/new/x.pth", "b/new/x.safetensors", "b/y.pth", "b/y.safetensors")
    assert files.names == [
        f"a/new/x.pth [{EMPTY}]",
        f"b/new/x.pth [{EMPTY}]",
        f"b/new/x.safetensors [{EMPTY}]",
        f"y.pth [{EMPTY}]",
        f"y.safetensors [{EMPTY}]",
    ]
    for name in files.names:
        assert files.find(name)[1].read_bytes().decode().endswith(name.partition(" [")[0])


def test_a_name_that_another_file_has_is_not_given_twice(tmp_path: Path) -> None:
    files = written(tmp_path, "x.pth", "x.safetensors", "x.pth.safetensors")
    assert len(files.names) == 3
    assert sorted(files.find(name)[1].name for name in files.names) == ["x.pth", "x.pth.safetensors", "x.safetensors"]


@pytest.mark.parametrize("size", [4, HASH_OFFSET + HASH_LENGTH + 4])
def test_copies_are_one_model_under_the_short_name(tmp_path: Path, size: int) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "copy.safetensors").write_bytes(b"\7" * size)
    files = ModelFiles([tmp_path])
    name = f"copy [{short_hash(tmp_path / 'a' / 'copy.safetensors')}]"
    assert files.names == [name]
    assert files.find("copy")[0] == name


def test_large_files_that_differ_behind_what_is_hashed_are_told_apart(tmp_path: Path) -> None:
    for folder in ("step-500", "step-1000"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "control.safetensors").write_bytes(bytes(HASH_OFFSET + HASH_LENGTH) + folder[-4:].encode())
    assert [name.partition(" [")[0] for name in ModelFiles([tmp_path]).names] == [
        "step-1000/control",
        "step-500/control",
    ]


def test_a_file_that_breaks_between_listing_and_reading_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    opened = Path.open

    def fails(path: Path, *how: Any, **more: Any) -> Any:
        if path.stem == "gone" and how == ("rb",):
            raise OSError(errno.EIO, "Input/output error")
        return opened(path, *how, **more)

    monkeypatch.setattr(Path, "open", fails)
    assert written(tmp_path, "here.safetensors", "gone.safetensors").names == [f"here [{EMPTY}]"]
    assert "gone.safetensors is left out, since it cannot be read (Input/output error)" in caplog.text


def test_links_to_one_file_are_one_model(tmp_path: Path) -> None:
    written(tmp_path, "a/x.safetensors")
    (tmp_path / "b").mkdir()
    os.link(tmp_path / "a" / "x.safetensors", tmp_path / "b" / "x.safetensors")
    (tmp_path / "c").symlink_to(tmp_path / "a")
    assert ModelFiles([tmp_path]).names == [f"x [{EMPTY}]"]
