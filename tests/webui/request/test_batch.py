"""Folders of pictures, and pictures that follow from the one before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from controlstack.core.errors import HintError, UnitError
from controlstack.core.schedule import RangeBasis
from controlstack.scripts.webui.page.choices import display
from controlstack.scripts.webui.request.arguments import FIELDS, SLOTS
from controlstack.scripts.webui.request.batch import Batch, batch_of, pictures_in
from controlstack.units.webui.fields import UnitArgs
from PIL import Image


def unit(**values: Any) -> dict[str, Any]:
    return {**dict.fromkeys(FIELDS), **display(UnitArgs()), "enabled": True, "input_mode": "simple", **values}


def page(*units: dict[str, Any]) -> list[Any]:
    return [*[None] * SLOTS, *(each[name] for each in units for name in FIELDS)]


def folder(path: Path, count: int) -> str:
    path.mkdir()
    for index in range(count):
        Image.new("RGB", (4, 4), (index, 0, 0)).save(path / f"frame{index + 1}.png")
    (path / "notes.txt").write_text("no picture")
    return str(path)


def red(image: Any) -> int:
    return int(np.asarray(image)[0, 0, 0])


def test_pictures_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    names = [path.name for path in pictures_in(folder(tmp_path / "in", 11)).files]
    assert names[:3] == ["frame1.png", "frame2.png", "frame3.png"] and names[-1] == "frame11.png"


def test_each_batch_has_its_picture_and_the_shortest_folder_counts(tmp_path: Path) -> None:
    long, short = folder(tmp_path / "long", 3), folder(tmp_path / "short", 2)
    still = np.full((4, 4, 3), 99, np.uint8)
    batch = batch_of(
        page(
            unit(input_mode="batch", batch_folder=f'"{long}"', output_folder=str(tmp_path / "out")),
            unit(input_mode="batch", batch_folder=short),
            unit(image=still),
        ),
        True,
    )
    assert batch is not None and batch.count == 2 and batch.output == tmp_path / "out"
    assert [[red(each.image) for each in batch.units(number)] for number in range(2)] == [[0, 0, 99], [1, 1, 99]]
    assert (batch.name(1, 0), batch.name(1, 2)) == ("frame2", "frame2-2")


def test_a_looping_unit_gets_the_last_result() -> None:
    batch = batch_of(page(unit(image=np.full((4, 4, 3), 9, np.uint8), loopback=True)), True)
    assert batch is not None and batch.count is None
    assert red(batch.units(0)[0].image) == 9 and red(batch.units(1)[0].image) == 9
    batch.remember(torch.full((3, 8, 8), 0.5))
    (looped,) = batch.units(1)
    assert red(looped.image) == 127 and np.shape(looped.image) == (8, 8, 3)


def test_a_looping_unit_of_a_client_counts_its_range_as_the_program_does() -> None:
    batch = batch_of([{"enabled": True, "loopback": True}], True)
    assert batch is not None
    assert batch.units(0, RangeBasis.NOISE)[0].range_basis is RangeBasis.NOISE


def test_units_that_are_off_or_plain_make_no_batch(tmp_path: Path) -> None:
    off = unit(input_mode="batch", batch_folder=str(tmp_path), enabled=False)
    assert batch_of(page(off, unit()), True) is None
    sent: list[Any] = [{"enabled": True, "input_mode": "batch", "weight": 0.5}, *[None] * (SLOTS - 1)]
    assert batch_of(sent, False) is None, "a client's unit with one picture"


@pytest.mark.parametrize(("name", "words"), [("", "does not exist"), ("none", "does not exist"), (".", "no pictures")])
def test_folders_without_pictures(tmp_path: Path, name: str, words: str) -> None:
    with pytest.raises(UnitError, match=words):
        Batch([unit(input_mode="batch", batch_folder=str(tmp_path / name) if name else "")])


def test_only_the_page_names_folders(tmp_path: Path) -> None:
    with pytest.raises(UnitError, match="only the page"):
        batch_of(page(unit(input_mode="batch", batch_folder=folder(tmp_path / "in", 1))), False)


def test_files_of_other_programs_are_passed_over_and_told(tmp_path: Path) -> None:
    path = folder(tmp_path / "in", 2)
    (tmp_path / "in" / "._frame1.png").write_bytes(b"Mac OS X")
    for name in ("a.psd", "b.psd"):
        (tmp_path / "in" / name).write_bytes(b"8BPS")
    assert [each.name for each in pictures_in(path).files] == ["frame1.png", "frame2.png"]
    batch = Batch([unit(enabled=False), unit(input_mode="batch", batch_folder=path)])
    assert batch.remarks == ["unit 1: of its batch folder 2 pictures are used, and left out 2 .psd and 1 .txt"]


def test_deep_pictures_of_a_folder_are_scaled(tmp_path: Path) -> None:
    path = folder(tmp_path / "in", 1)
    Image.fromarray(np.full((4, 4), 257 * 77, np.uint16)).save(tmp_path / "in" / "frame2.png")
    batch = Batch([unit(input_mode="batch", batch_folder=path)])
    assert red(batch.units(1)[0].image) == 77


def test_a_damaged_picture_is_named(tmp_path: Path) -> None:
    path = folder(tmp_path / "in", 1)
    (tmp_path / "in" / "frame2.png").write_bytes(b"nothing")
    batch = Batch([unit(input_mode="batch", batch_folder=path)])
    with pytest.raises(HintError, match=r"unit 0: .*frame2\.png is no picture"):
        batch.units(1)
