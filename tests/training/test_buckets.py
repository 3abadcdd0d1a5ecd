"""Aspect-ratio buckets: sizes of one area, orders that depend on seed and number alone, batches of one size."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from controlstack.core.errors import HintError
from controlstack.preprocessors.images import image_size
from controlstack.training.data.buckets import NARROWEST, STEP, Buckets, size_for, sizes
from controlstack.training.data.example import Example, shape_of
from controlstack.training.data.hints import HintSource, Reader, View
from controlstack.training.loop import train
from controlstack.training.settings import Settings
from controlstack.training.start import start
from PIL import Image

SHAPES = ((128, 128), (100, 260), (260, 100), (130, 120), (90, 250))


@pytest.mark.parametrize("side", [128, 512, 1024])
def test_sizes_have_about_one_area(side: int) -> None:
    found = sizes(side)
    assert (side, side) in found
    assert all((width, height) in found for height, width in found)
    for height, width in found:
        assert height % STEP == width % STEP == 0
        assert side * side - STEP * max(height, width) < height * width <= side * side
        assert max(height, width) <= NARROWEST * min(height, width)


def test_a_picture_comes_into_the_nearest_shape() -> None:
    assert size_for((500, 500), 512) == (512, 512)
    assert size_for((900, 1600), 512) == (384, 640)
    assert size_for((1600, 900), 512) == (640, 384)
    assert size_for((10, 1000), 512) == (256, 1024)


def test_every_example_comes_and_batches_have_one_size() -> None:
    of = [(1, 1), (2, 1), (1, 1), (1, 2), (1, 1), (2, 1), (1, 1)]
    buckets = Buckets(of, 2)
    order = buckets.order(torch.Generator().manual_seed(3))
    assert len(order) == buckets.epoch() == 8
    counted = Counter(order)
    assert set(counted) == set(range(7))
    assert [index for index, count in counted.items() if count == 2] == [3]  # alone in its bucket
    assert all(of[order[k]] == of[order[k + 1]] for k in range(0, 8, 2))
    assert order == buckets.order(torch.Generator().manual_seed(3))
    assert order != buckets.order(torch.Generator().manual_seed(4))


@pytest.mark.parametrize(("exif", "size"), [(1, (20, 30)), (6, (30, 20))])
def test_a_header_says_the_upright_size(tmp_path: Path, exif: int, size: tuple[int, int]) -> None:
    picture, about = Image.new("RGB", (30, 20)), Image.Exif()
    about[0x0112] = exif
    path = tmp_path / "a.jpg"
    picture.save(path, exif=about)
    assert image_size(path, "a") == image_size(path.read_bytes(), "a") == size
    path.write_bytes(b"no picture")
    with pytest.raises(HintError, match="no picture of a known format"):
        image_size(path, "a")


@pytest.fixture
def shapes(tmp_path: Path) -> Path:
    """Pictures of several shapes, with hints that are the same pictures."""
    chance, lines = np.random.default_rng(0), []
    for number, (height, width) in enumerate(SHAPES):
        smooth = cv2.resize(chance.integers(0, 256, (5, 5, 3), np.uint8), (width, height))
        cv2.imwrite(str(tmp_path / f"{number}.png"), smooth)
        lines.append(json.dumps({"file_name": f"{number}.png", "text": "a", "conditioning_image": f"{number}.png"}))
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return tmp_path


def test_picture_and_hint_show_the_same_part(shapes: Path) -> None:
    path = shapes / "1.png"
    picture, hint = Reader((HintSource(),), 128, True)(Example(path, path, "", "line 1"), View(True, 0.3, 0.9))
    assert picture.shape == hint.shape == (64, 256, 3)
    assert np.abs(picture.astype(int) - hint).mean() < 8
    assert shape_of(path) == SHAPES[1]


def test_a_training_takes_batches_of_one_size(settings: Settings, shapes: Path) -> None:
    own = replace(settings, data=shapes, hints=HintSource(), resolution=128, buckets=True, batch=2, steps=3)
    run = start(own)
    batches = [run.examples.batch(2 * k, 2, own.seed) for k in range(3)]
    assert run.examples.epoch == 6  # two wide ones, one high one twice, two squares
    found = sorted(tuple(batch["hint"].shape[2:]) for batch in batches)
    assert found == [(64, 256), (128, 128), (256, 64)]
    assert all(batch["latents"].shape[2] * 8 == batch["hint"].shape[2] for batch in batches)
    losses = list(train(run))
    assert all(np.isfinite(losses))
    assert list(train(start(own))) == losses
    assert start(replace(own, epochs=2.0)).settings.steps == 6


def test_buckets_need_a_resolution(settings: Settings) -> None:
    with pytest.raises(HintError, match="--buckets needs the size of the squares"):
        replace(settings, buckets=True, resolution=0)
