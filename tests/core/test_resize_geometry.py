"""Geometry of the resize modes, and the pixels of tensors."""

from __future__ import annotations

import pytest
import torch
from controlstack.core.errors import HintError
from controlstack.core.resize import Fit, ResizeMode, fit, fit_geometry, pixel_perfect


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        (ResizeMode.JUST_RESIZE, Fit((64, 64), 0, 0)),
        (ResizeMode.CROP, Fit((64, 128), 0, -32)),
        (ResizeMode.FILL, Fit((32, 64), 16, 0)),
    ],
)
def test_a_wide_picture_in_a_square(mode: ResizeMode, expected: Fit) -> None:
    assert fit_geometry((100, 200), (64, 64), mode) == expected


@pytest.mark.parametrize("mode", ResizeMode)
@pytest.mark.parametrize("source", [(1, 1), (511, 513), (64, 64), (3, 1000)])
@pytest.mark.parametrize("target", [(64, 64), (8, 72), (511, 513)])
def test_every_size_comes_out_exact(mode: ResizeMode, source: tuple[int, int], target: tuple[int, int]) -> None:
    hint = torch.rand(2, 3, *source)
    assert fit(hint, target, mode).shape == (2, 3, *target)


def test_a_hint_of_the_right_size_is_untouched() -> None:
    hint = torch.rand(1, 3, 16, 24)
    assert fit(hint, (16, 24), ResizeMode.CROP) is hint


def test_crop_keeps_the_middle_and_fill_keeps_all() -> None:
    hint = torch.zeros(1, 3, 10, 30)
    hint[..., 10:20] = 1.0
    assert fit(hint, (10, 10), ResizeMode.CROP).min() == 1.0
    filled = fit(hint, (30, 30), ResizeMode.FILL)
    assert filled[..., 10:20, :].equal(hint)
    assert filled[..., :10, :].max() == 0.0  # the median of the border is black


def test_shrinking_keeps_one_pixel_lines_and_two_colours() -> None:
    hint = torch.zeros(1, 1, 64, 64)
    hint[..., 31, :] = 1.0
    small = fit(hint, (16, 16), ResizeMode.JUST_RESIZE)
    assert small.unique().tolist() == [0.0, 1.0]
    assert small[..., 7, :].min() == 1.0


def test_a_label_map_gets_no_new_colours() -> None:
    labels = torch.randint(0, 5, (1, 1, 16, 16)).float().expand(1, 3, 16, 16) / 5
    assert set(fit(labels, (40, 24), ResizeMode.JUST_RESIZE).unique().tolist()) <= set(labels.unique().tolist())


def test_a_photograph_stays_in_its_range() -> None:
    photo = torch.rand(1, 3, 50, 70)
    large = fit(photo, (100, 140), ResizeMode.JUST_RESIZE)
    assert photo.min() <= large.min() and large.max() <= photo.max()
    assert float(large.mean()) == pytest.approx(float(photo.mean()), abs=0.01)


@pytest.mark.parametrize(
    ("mode", "expected"), [(ResizeMode.JUST_RESIZE, 512), (ResizeMode.CROP, 512), (ResizeMode.FILL, 288)]
)
def test_pixel_perfect(mode: ResizeMode, expected: int) -> None:
    assert pixel_perfect((1080, 1920), (512, 512), mode) == expected


def test_an_empty_picture_is_refused() -> None:
    with pytest.raises(HintError, match="sizes start at 1 pixel"):
        fit_geometry((0, 10), (64, 64), ResizeMode.CROP)
