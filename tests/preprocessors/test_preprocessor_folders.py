"""Folders as people have them: pictures of many suffixes, and files of other programs between them."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from controlstack.core.errors import HintError
from controlstack.preprocessors.folders import list_pictures
from controlstack.preprocessors.images import suffixes


def touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"content")


def listed(folder: Path, **options: object) -> list[str]:
    files = list_pictures(folder, **options).files  # type: ignore[arg-type]
    return [path.relative_to(folder).as_posix() for path in files]


def test_numbers_come_in_their_order(tmp_path: Path) -> None:
    touch(tmp_path, "frame10.png", "frame2.PNG", "Frame1.png", "a.jpg", "7.png", "²5.png", "07.png")
    assert listed(tmp_path) == ["07.png", "7.png", "a.jpg", "Frame1.png", "frame2.PNG", "frame10.png", "²5.png"]


def test_every_suffix_that_can_be_read_is_listed(tmp_path: Path) -> None:
    touch(tmp_path, *(f"photo{suffix}" for suffix in suffixes()))
    assert {".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".tif", ".tiff", ".gif"} <= set(suffixes())
    assert len(listed(tmp_path)) == len(suffixes())


def test_hidden_files_are_passed_over(tmp_path: Path) -> None:
    touch(tmp_path, "frame1.png", "._frame1.png", ".DS_Store", ".trash/old.png", "sub/frame2.png", "sub/._frame2.png")
    listing = list_pictures(tmp_path, deep=True)
    assert [path.name for path in listing.files] == ["frame1.png", "frame2.png"]
    assert listing.left_out == {} and listing.remark() == ""


def test_what_is_left_out_is_told_by_kind(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "b.ppm", "c.TXT", "d.txt", "LICENSE", "clip.mp4", "sub/e.png", "sub/f.ppm")
    shallow, deep = list_pictures(tmp_path), list_pictures(tmp_path, deep=True, also=(".mp4",))
    assert shallow.remark() == "2 .txt and 1 without a suffix and 1 .mp4 and 1 .ppm"
    assert deep.remark() == "2 .ppm and 2 .txt and 1 without a suffix"
    assert listed(tmp_path, deep=True, also=(".mp4",)) == ["a.png", "clip.mp4", "sub/e.png"]


def test_an_output_folder_inside_is_not_looked_at(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "out/a-canny.png", "out/notes.txt")
    assert listed(tmp_path, deep=True, outside=tmp_path / "out") == ["a.png"]
    assert list_pictures(tmp_path, deep=True, outside=tmp_path / "out").left_out == {}


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(HintError, match=r"cannot read the folder .*nowhere: No such file"):
        list_pictures(tmp_path / "nowhere")


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_linked_folders_are_looked_into_once(tmp_path: Path) -> None:
    touch(tmp_path / "elsewhere", "b.png")
    here = tmp_path / "here"
    touch(here, "a.png", "sub/c.png")
    (here / "linked").symlink_to(tmp_path / "elsewhere")
    (here / "again").symlink_to(here / "sub")
    (here / "sub" / "round").symlink_to(here)
    (here / "self.png").symlink_to(here / "self.png")
    (here / "gone.png").symlink_to(tmp_path / "nowhere.png")
    listing = list_pictures(here, deep=True, outside=here / "out")
    assert sorted(path.name for path in listing.files) == ["a.png", "b.png", "c.png"]
    assert listing.remark() == "2 broken links"


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="nothing is forbidden to this user")
def test_a_folder_without_permission_is_told(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "closed/b.png")
    (tmp_path / "closed").chmod(0)
    try:
        assert list_pictures(tmp_path, deep=True).remark() == "1 folder that cannot be read"
        assert listed(tmp_path, deep=True) == ["a.png"]
    finally:
        (tmp_path / "closed").chmod(0o700)
