"""Hints at the picture's size: no new colours in drawings and label maps, no lost lines, nothing stretched unasked."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from controlstack.core.errors import HintError
from controlstack.core.resize import ResizeMode
from controlstack.preprocessors import find
from controlstack.preprocessors.resize import count_colours, pad_to_multiple, resize_image, scaled_size, thin
from scipy import ndimage
from skimage import data

TARGETS = [(64, 64), (511, 513), (512, 768), (40, 900)]
targets = pytest.mark.parametrize("target", TARGETS)
EIGHT = np.ones((3, 3))


def edges(height: int = 300, width: int = 400) -> np.ndarray:
    return find("canny")(cv2.resize(data.astronaut(), (width, height), interpolation=cv2.INTER_AREA))


def labels(height: int, width: int, colours: int) -> np.ndarray:
    palette = np.random.default_rng(5).integers(0, 256, (colours, 3)).astype(np.uint8)
    rows, columns = np.indices((height, width)) // 7
    return palette[(rows * 13 + columns) % colours]


def colours_of(image: np.ndarray) -> set[int]:
    return set(np.unique(image.astype(int) @ [0x10000, 0x100, 1]).tolist())


def zhang_suen(lines: np.ndarray) -> np.ndarray:
    """The algorithm as the paper words it, one pixel after the other."""
    image = np.pad(lines, 1).astype(int)
    ring = [(-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1)]
    while True:
        before = image.copy()
        for products in (((0, 2, 4), (2, 4, 6)), ((0, 2, 6), (0, 4, 6))):
            removed = []
            for y, x in np.argwhere(image):
                p = [image[y + dy, x + dx] for dy, dx in ring]
                rises = sum(here == 0 and after == 1 for here, after in zip(p, [*p[1:], p[0]], strict=True))
                empty = all(p[a] * p[b] * p[c] == 0 for a, b, c in products)
                if 2 <= sum(p) <= 6 and rises == 1 and empty:
                    removed.append((y, x))
            for pixel in removed:
                image[pixel] = 0
        if np.array_equal(before, image):
            return image[1:-1, 1:-1].astype(bool)


@targets
@pytest.mark.parametrize("mode", ResizeMode)
@pytest.mark.parametrize("channels", [3, 4])
def test_every_size_comes_out(target: tuple[int, int], mode: ResizeMode, channels: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (33, 70, channels)).astype(np.uint8)
    resized = resize_image(image, target, mode)
    assert resized.shape == (*target, channels)
    assert resized.dtype == np.uint8
    assert resized.flags.c_contiguous


@pytest.mark.parametrize("mode", ResizeMode)
def test_the_right_size_is_left_alone(mode: ResizeMode) -> None:
    image = edges()
    assert resize_image(image, (300, 400), mode) is image


def test_photographs_are_filtered_by_area_down_and_cubic_up() -> None:
    photo = data.astronaut()
    means = photo.reshape(128, 4, 128, 4, 3).mean(axis=(1, 3))
    down = resize_image(photo, (128, 128), ResizeMode.JUST_RESIZE)
    assert np.abs(down - means).max() <= 0.51
    up = resize_image(photo, (700, 900), ResizeMode.JUST_RESIZE)
    assert np.array_equal(up, cv2.resize(photo, (900, 700), interpolation=cv2.INTER_CUBIC))
    both = resize_image(photo, (128, 900), ResizeMode.JUST_RESIZE)
    narrow = np.rint(photo.reshape(128, 4, 512, 3).mean(axis=1)).astype(np.uint8)
    expected = cv2.resize(narrow, (900, 128), interpolation=cv2.INTER_CUBIC)
    assert np.abs(both.astype(int) - expected).max() <= 2


@targets
@pytest.mark.parametrize("mode", ResizeMode)
@pytest.mark.parametrize("colours", [2, 3, 150, 199])
def test_label_maps_get_no_new_colours(target: tuple[int, int], mode: ResizeMode, colours: int) -> None:
    image = labels(300, 400, colours)
    assert colours_of(resize_image(image, target, mode)) <= colours_of(image)


@pytest.mark.parametrize("inverted", [False, True])
@pytest.mark.parametrize("target", [(600, 800), (150, 200), (210, 280), (450, 600), (301, 399)])
def test_one_pixel_lines_stay_one_pixel_lines(target: tuple[int, int], inverted: bool) -> None:
    source = edges() ^ np.uint8(255 * inverted)
    resized = resize_image(source, target, ResizeMode.JUST_RESIZE)
    assert set(np.unique(resized)) == {0, 255}
    before, after = ((image[..., 0] == 0) == inverted for image in (source, resized))
    assert ndimage.binary_opening(after, EIGHT).sum() < 0.02 * after.sum()
    away = ndimage.distance_transform_edt(~after)
    rows, columns = (np.nonzero(before)[axis] * target[axis] // source.shape[axis] for axis in (0, 1))
    assert (away[rows, columns] <= 2).mean() > 0.97  # where there was a line, there is one


@pytest.mark.parametrize("levels", [(0, 255), (5, 250)])
@pytest.mark.parametrize("k", [0.5, 2, 0.3])
def test_bold_drawings_keep_their_two_levels_and_their_width(levels: tuple[int, int], k: float) -> None:
    drawing = np.full((200, 200, 3), levels[0], np.uint8)
    cv2.circle(drawing, (100, 100), 60, (levels[1],) * 3, 15)
    side = round(200 * k)
    resized = resize_image(drawing, (side, side), ResizeMode.JUST_RESIZE)
    assert set(np.unique(resized)) == set(levels)
    share = (resized == levels[1]).mean() / (drawing == levels[1]).mean()
    assert share == pytest.approx(1, abs=0.05)


def test_two_colours_that_are_no_drawing_stay_themselves() -> None:
    image = np.zeros((50, 50, 3), np.uint8)
    image[20:30] = (255, 0, 0)
    assert colours_of(resize_image(image, (75, 75), ResizeMode.JUST_RESIZE)) == {0, 0xFF0000}


@pytest.mark.parametrize("colour", [0, 90, 255])
def test_one_colour_stays_one_colour(colour: int) -> None:
    image = np.full((30, 40, 3), colour, np.uint8)
    assert (resize_image(image, (64, 64), ResizeMode.FILL) == colour).all()


def test_crop_takes_the_middle_and_fill_keeps_all() -> None:
    photo = np.ascontiguousarray(data.astronaut()[:256])
    cropped = resize_image(photo, (256, 256), ResizeMode.CROP)
    assert np.array_equal(cropped, photo[:, 128:384])
    filled = resize_image(photo, (512, 512), ResizeMode.FILL)
    assert np.array_equal(filled[128:384], photo)
    border = np.concatenate([photo[0], photo[-1], photo[:, 0], photo[:, -1]])
    assert np.array_equal(filled[0, 0], np.median(border, axis=0).astype(np.uint8))
    assert np.array_equal(filled[:128], filled[384:])
    assert (filled[:128] == filled[0, 0]).all()


def test_the_fill_of_a_drawing_is_a_colour_of_the_drawing() -> None:
    drawing = np.zeros((64, 64, 3), np.uint8)
    drawing[:32] = 255
    assert set(np.unique(resize_image(drawing, (64, 128), ResizeMode.FILL))) == {0, 255}


def test_the_fourth_channel_is_a_mask() -> None:
    photo = data.astronaut()
    mask = np.zeros((512, 512, 1), np.uint8)
    mask[100:200, 50:450] = 255
    resized = resize_image(np.dstack([photo, mask]), (300, 600), ResizeMode.FILL)
    assert np.array_equal(resized[..., :3], resize_image(photo, (300, 600), ResizeMode.FILL))
    assert set(np.unique(resized[..., 3])) == {0, 255}
    assert (resized[:, :150, 3] == 255).all()  # outside the picture everything may change
    inside = resized[:, 150:450, 3] == 255
    assert inside.mean() == pytest.approx((mask == 255).mean(), abs=0.01)


@pytest.mark.parametrize("colours", [1, 2, 3, 150, 199])
def test_few_colours_are_counted_exactly(colours: int) -> None:
    image = np.zeros((512, 512, 3), np.uint8)
    image[1, 2 : 2 + colours - 1, 1] = np.arange(1, colours)  # none of them where the sample looks
    assert count_colours(image) == colours


def test_a_photograph_shows_its_many_colours_in_the_sample() -> None:
    assert 200 <= count_colours(data.astronaut()) <= 4096 + 512


def test_thinning_keeps_every_line_connected() -> None:
    thick = cv2.dilate(edges()[..., 0], np.ones((3, 3), np.uint8)) > 0
    lines = thin(thick)
    assert not (lines & ~thick).any()
    assert ndimage.label(lines, EIGHT)[1] == ndimage.label(thick, EIGHT)[1]
    assert not ndimage.binary_opening(lines, EIGHT).any()
    assert np.array_equal(thin(lines), lines)


def test_thinning_is_that_of_the_paper() -> None:
    seeds = np.random.default_rng(0).random((50, 60)) > 0.96
    blobs = ndimage.binary_dilation(seeds, np.ones((4, 3)))
    assert np.array_equal(thin(blobs), zhang_suen(blobs))


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (5, 1)])
def test_thinning_at_the_border(size: tuple[int, int]) -> None:
    assert thin(np.ones(size, np.bool_)).any()
    assert not thin(np.zeros(size, np.bool_)).any()


def test_padding_repeats_the_edge() -> None:
    image = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)
    assert np.array_equal(pad_to_multiple(image, 4), np.pad(image, ((0, 3), (0, 1), (0, 0)), mode="edge"))
    assert pad_to_multiple(image, 1) is image


def test_a_short_side_never_vanishes() -> None:
    assert scaled_size((1080, 1920), 512) == (512, 910)
    assert scaled_size((1, 3), 1) == (1, 3)


@pytest.mark.parametrize(("shape", "kind"), [((4, 4), "u1"), ((4, 4, 3), "f8"), ((0, 4, 3), "u1"), ((4, 4, 2), "u1")])
def test_what_is_no_picture_is_refused(shape: tuple[int, ...], kind: str) -> None:
    with pytest.raises(HintError, match="expected uint8"):
        resize_image(np.zeros(shape, kind), (8, 8), ResizeMode.FILL)
