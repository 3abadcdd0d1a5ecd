"""The tiny world is what it says, and its parts learn."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from controlstack.models.files.loading import read_header
from controlstack.pipelines.tiny_world import TINY, read_depth
from controlstack.training.report.bars import Steps
from controlstack.training.tiny import autoencoder, base, commands
from controlstack.training.tiny.scenes import (
    DARKEST,
    MARGIN,
    SIZE,
    Scene,
    draw,
    random_scene,
    read_colours,
    scenes,
    write_dataset,
)
from controlstack.training.tiny.tokenizer import LENGTH, WORDS, write_tokenizer
from diffusers import AutoencoderTiny
from PIL import Image

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
    monkeypatch.setattr(autoencoder, "WHOLE_BATCH", 2)
    monkeypatch.setattr(base, "SCENES", 4)
    monkeypatch.setattr(base, "BATCH", 2)


def _flat(module: torch.nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten().clone() for parameter in module.parameters()])


def _new_autoencoder() -> AutoencoderTiny:
    torch.manual_seed(0)
    return autoencoder.new_autoencoder()


def _new_base(folder: Path) -> base.Base:
    vae = _new_autoencoder()
    return base.new_base(vae, folder)


def test_the_autoencoder_learns_and_repeats(small: None) -> None:
    one, two = _new_autoencoder(), _new_autoencoder()
    losses = list(autoencoder.autoencoder_training(one, 20, seed=0).run(20))
    again = list(autoencoder.autoencoder_training(two, 20, seed=0).run(20))
    assert np.mean(losses[-5:]) < np.mean(losses[:5])
    assert losses == again
    assert _flat(one).equal(_flat(two))


def test_the_scale_brings_latents_to_unit_variance(small: None) -> None:
    vae = _new_autoencoder()
    autoencoder.set_scale(vae, seed=0)
    pictures = torch.from_numpy(np.stack([draw(scene).image for scene in scenes(4, seed=0)])).permute(0, 3, 1, 2)
    latents = autoencoder.encode(vae, pictures) * vae.config["scaling_factor"]
    assert float(latents.std()) == pytest.approx(1, abs=1e-3)


def test_the_decoder_learns_while_the_latents_stay(small: None) -> None:
    vae = _new_autoencoder()
    encoder, decoder = _flat(vae.encoder), _flat(vae.decoder)
    losses = list(autoencoder.decoder_training(vae, 10, seed=0).run(10))
    assert np.mean(losses[-3:]) < np.mean(losses[:3])
    assert _flat(vae.encoder).equal(encoder)
    assert not _flat(vae.decoder).equal(decoder)


def test_the_base_learns_and_loads_as_a_pipeline(small: None, tmp_path: Path) -> None:
    from diffusers import StableDiffusionPipeline

    made = _new_base(tmp_path)
    text = _flat(made.text_encoder)
    training = base.base_training(made, 10, seed=0)
    losses = list(training.run(10))
    assert all(np.isfinite(losses))
    assert min(losses[5:]) < losses[0]
    assert not _flat(made.text_encoder).equal(text)
    made.save(tmp_path / "base")
    assert {path.name for path in (tmp_path / "base" / "tokenizer").iterdir()} >= {"vocab.json", "merges.txt"}
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path / "base", dtype=torch.float32)
    assert pipeline.tokenizer.model_max_length == LENGTH
    for name, weight in pipeline.unet.state_dict().items():
        assert weight.equal(made.unet.state_dict()[name].half().float())


def test_the_average_is_lent_and_given_back(small: None, tmp_path: Path) -> None:
    made = _new_base(tmp_path)
    training = base.base_training(made, 4, seed=0)
    list(training.run(4))
    own = _flat(made.unet)
    with base.averaged(training):
        assert not _flat(made.unet).equal(own)
        made.save(tmp_path / "base")  # rounds the weights to fp16
    assert _flat(made.unet).equal(own)


def test_a_resumed_base_training_takes_the_same_steps(small: None, tmp_path: Path) -> None:
    straight = _new_base(tmp_path / "a")
    losses = list(base.base_training(straight, 4, seed=0).run(4))
    first = base.base_training(_new_base(tmp_path / "b"), 4, seed=0)
    list(first.run(2))
    first.save(tmp_path / "state")
    other = _new_base(tmp_path / "c")
    resumed = base.base_training(other, 4, seed=0)
    resumed.load(tmp_path / "state")
    assert list(resumed.run(4)) == losses[2:]
    assert _flat(other.unet).equal(_flat(straight.unet))


def test_the_commands_make_a_world(small: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    vae, out = str(tmp_path / "vae"), str(tmp_path / "base")
    assert commands.main(["autoencoder", "--out", vae, "--steps", "2"]) == 0
    assert commands.main(["base", "--vae", vae, "--out", out, "--steps", "3", "--save-every", "2"]) == 0
    assert commands.main(["base", "--start", out, "--out", str(tmp_path / "more"), "--steps", "2"]) == 0
    assert commands.main(["decoder", "--vae", vae, "--out", str(tmp_path / "sharp"), "--steps", "2"]) == 0
    assert commands.main(["dataset", "--out", str(tmp_path / "data"), "--count", "2"]) == 0
    assert "step 3 of 3" in capsys.readouterr().out
    left = {path.name for path in tmp_path.iterdir()}
    assert not [path for path in tmp_path.rglob("*.json") if str(tmp_path) in path.read_text(encoding="utf-8")]
    assert left == {"vae", "vae.png", "base", "base.png", "more", "more.png", "sharp", "sharp.png", "data"}


def _words(path: Path) -> Iterator[str]:
    """Every text that a file of the tiny world says about itself."""
    if path.suffix == ".safetensors":
        yield from _texts(read_header(path).metadata)
    elif path.suffix == ".json":
        yield from _texts(json.loads(path.read_text(encoding="utf-8")))
    elif path.suffix == ".png":
        with Image.open(path) as image:
            yield from _texts(image.info)
    else:
        assert path.name == "merges.txt", f"a new kind of file, {path.name}: say here what texts it holds"


def _texts(value: object) -> Iterator[str]:
    """The strings among the values of something nested."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from (text for each in value.values() for text in _texts(each))
    elif isinstance(value, (list, tuple)):
        yield from (text for each in value for text in _texts(each))


ABSOLUTE = re.compile(r"(?:^|[\s=,:'\"(])(?:~?/|[A-Za-z]:[\\/])\w")


@pytest.mark.parametrize(
    ("text", "absolute"),
    [("/home/me/tiny", True), ("base=/x", True), ("C:\\x", True), ("~/x", True), ("a/b", False), ("low=50", False)],
)
def test_absolute_paths_are_recognised(text: str, absolute: bool) -> None:
    assert bool(ABSOLUTE.search(text)) == absolute


def test_the_shipped_world_says_nothing_about_the_machine_that_made_it() -> None:
    files = [path for path in TINY.rglob("*") if path.is_file()]
    found = {str(path.relative_to(TINY)): list(_words(path)) for path in files}
    assert found["controls/canny.safetensors"]
    assert not [(name, text) for name, texts in found.items() for text in texts if ABSOLUTE.search(text)]


def test_an_interrupted_command_goes_on(small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    show, seen = Steps.show, []

    def interrupt(steps: Steps, loss: float) -> None:
        show(steps, loss)
        seen.append(loss)
        if len(seen) == 3:
            raise KeyboardInterrupt

    command = ["autoencoder", "--steps", "4", "--save-every", "2"]
    commands.main([*command, "--out", str(tmp_path / "whole")])
    with monkeypatch.context() as patched:
        patched.setattr(Steps, "show", interrupt)
        assert commands.main([*command, "--out", str(tmp_path / "cut")]) == commands.INTERRUPTED
    assert commands.main([*command, "--out", str(tmp_path / "cut"), "--resume"]) == 0
    whole, cut = (AutoencoderTiny.from_pretrained(tmp_path / name) for name in ("whole", "cut"))
    assert _flat(whole).equal(_flat(cut))
