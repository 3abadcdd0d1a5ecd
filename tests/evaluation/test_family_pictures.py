"""The pictures of families' pages: which there are, and the Control-LoRA that is made for one of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from controlstack.models.families.control_lora import MARK
from controlstack.training.evaluation.family_pictures import PAGES, SHOWN, low_rank
from torch import Tensor

FAMILIES = Path(__file__).resolve().parents[2] / "docs" / "families"


def test_every_picture_is_on_its_page() -> None:
    pages = {page.stem for page in FAMILIES.glob("*.md") if "../images/families/" in page.read_text(encoding="utf-8")}
    assert {page.name for page in SHOWN} == pages == {picture.stem for picture in PAGES.glob("*.png")}


def product(state: dict[str, Tensor], stem: str, shape: tuple[int, ...]) -> Tensor:
    return (state[f"{stem}.up"].flatten(1) @ state[f"{stem}.down"].flatten(1)).reshape(shape)


@pytest.mark.parametrize("shape", [(6, 4), (6, 4, 3, 3)])
def test_a_difference_of_low_rank_is_kept_whole(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    base, rank = {"input_blocks.1.0.weight": torch.randn(shape)}, 2
    difference = (torch.randn(6, rank) @ torch.randn(rank, base["input_blocks.1.0.weight"][0].numel())).reshape(shape)
    control = {
        "input_blocks.1.0.weight": base["input_blocks.1.0.weight"] + difference,
        "input_blocks.1.0.bias": torch.randn(6),
        "zero_convs.0.0.weight": torch.randn(4, 4, 1, 1),
    }
    state = low_rank(control, base, rank)
    assert set(state) == {MARK, "input_blocks.1.0.up", "input_blocks.1.0.down", "input_blocks.1.0.bias",
                          "zero_convs.0.0.weight"}  # fmt: skip
    assert product(state, "input_blocks.1.0", shape).allclose(difference, atol=1e-5)
    assert not product(low_rank(control, base, 1), "input_blocks.1.0", shape).allclose(difference, atol=0.1)
