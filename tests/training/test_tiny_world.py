"""The tiny world is what it says, and its parts learn."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from controlstack.training.tiny import autoencoder, base
from controlstack.training.tiny.scenes import (
    DARKEST,
    MARGIN,
    SIZE,
    Scene,
    draw,
    random_scene,
    read_colours,
    read_depth,
    scenes,
    write_dataset,
)
from controlstack.training.tiny.tokenizer import LENGTH, WORDS, write_tokenizer

EDGE = 3  # pixels around an outline where antialiasing mixes two colours


def _away_from_edges(colours: np.ndarray) -> np.ndarray:
    edges = cv2.morphologyEx(colours, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
    return cv2.dilate(edges.astype(np.uint8), np.ones((EDGE, EDGE), np.uint8)) == 0


@pytest.mark.parametrize("scene", scenes(12, seed=5), ids=lambda scene: scene.caption)
def test_depth_and_colours_can_be_read_from_the_picture(scene: Scene) -> None:
    picture = draw(scene)
    flat = _away_from_edges(picture.colours)
    assert picture.image.shape == (SIZE, SIZE, 3)
    assert (read_colours(picture.image)[flat] == picture.colours[flat]).all()
    assert np.abs(read_depth(picture.image) - picture.depth / 255)[flat].max() < 0.01
    assert picture.image.max(axis=-1)[flat].min() >= int(DARKEST * 255)


@pytest.mark.parametrize("scene", scenes(40, seed=6), ids=lambda scene: scene.caption)
def test_scenes_make_sense(scene: Scene) -> None:
    assert 1 <= len(scene.shapes) <= 2
    assert len({scene.ground, *(shape.colour for shape in scene.shapes)}) == len(scene.shapes) + 1
    assert set(scene.caption.split()) <= set(WORDS)
    for shape in scene.shapes:
        assert all(shape.radius + MARGIN <= c <= SIZE - shape.radius - MARGIN for c in shape.centre)


def test_scenes_come_from_the_seed_alone() -> None:
    assert scenes(3, seed=1) == scenes(5, seed=1)[:3]
    assert scenes(3, seed=1) != scenes(3, seed=2)
    assert random_scene(np.random.default_rng(0)) == random_scene(np.random.default_rng(0))


def test_a_data_set_is_an_image_folder(tmp_path: Path) -> None:
    write_dataset(tmp_path, 3, seed=4)
    lines = [json.loads(line) for line in (tmp_path / "metadata.jsonl").read_text().splitlines()]
    for line, scene in zip(lines, scenes(3, seed=4), strict=True):
        picture = draw(scene)
        assert line["text"] == scene.caption
        assert (cv2.imread(str(tmp_path / line["file_name"]))[..., ::-1] == picture.image).all()
        assert (cv2.imread(str(tmp_path / line["depth_image"]), cv2.IMREAD_GRAYSCALE) == picture.depth).all()


def test_every_word_is_one_token_and_other_words_are_spelt(tmp_path: Path) -> None:
    from transformers import CLIPTokenizer

    write_tokenizer(tmp_path)
    tokenizer = CLIPTokenizer.from_pretrained(tmp_path)
    assert all(len(tokenizer.tokenize(word)) == 1 for word in WORDS)
    assert len(tokenizer.tokenize("dragon")) > 1
    text = "a red star and an orange circle on blue"
    assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True).strip() == text
    assert base.tokenise(tokenizer, [text, ""]).shape == (2, LENGTH)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real training on a handful of scenes."""
    monkeypatch.setattr(autoencoder, "SCENES", 4)
    monkeypatch.setattr(autoencoder, "BATCH", 2)
    monkeypatch.setattr(base, "SCENES", 4)
    monkeypatch.setattr(base, "BATCH", 2)


def _autoencoder(steps: int) -> tuple[list[float], torch.Tensor]:
    torch.manual_seed(0)
    vae = autoencoder.new_autoencoder()
    losses = list(autoencoder.train_autoencoder(vae, steps, seed=0))
    return losses, torch.cat([p.detach().flatten() for p in vae.parameters()])


def test_the_autoencoder_learns_and_repeats(small: None) -> None:
    losses, weights = _autoencoder(20)
    again, same_weights = _autoencoder(20)
    assert np.mean(losses[-5:]) < np.mean(losses[:5])
    assert losses == again
    assert weights.equal(same_weights)


def test_the_base_learns_and_loads_as_a_pipeline(small: None, tmp_path: Path) -> None:
    from diffusers import StableDiffusionPipeline

    torch.manual_seed(0)
    made = base.new_base(autoencoder.new_autoencoder(), tmp_path)
    losses = list(base.train_base(made, 10, seed=0))
    assert all(np.isfinite(losses))
    assert min(losses[5:]) < losses[0]
    made.save(tmp_path / "base")
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path / "base", dtype=torch.float32)
    for name, weight in pipeline.unet.state_dict().items():
        assert weight.equal(made.unet.state_dict()[name].half().float())
