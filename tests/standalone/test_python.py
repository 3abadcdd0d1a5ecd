"""The public names on the shipped tiny world: the documented lines draw, and a picture can be drawn again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import controlstack as cs
import numpy as np
import pytest
import torch
from controlstack.pipelines.tiny_world import BASE, TINY
from controlstack.standalone.record import KEY, read_picture_record
from controlstack.standalone.terminal.again import draw_again
from PIL import Image

CANNY, COLOUR = TINY / "controls" / "canny.safetensors", TINY / "controls" / "color.safetensors"
SMALL: dict[str, Any] = {"steps": 3, "width": 64, "height": 64, "scheduler": "ddim"}


@pytest.fixture(scope="module")
def base() -> Any:
    return cs.load_base(BASE, device="cpu")


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    levels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    path = tmp_path / "photo.png"
    Image.fromarray(levels).resize((64, 64), Image.Resampling.NEAREST).save(path)
    return path


def test_the_ten_lines_draw(base: Any, photo: Path, tmp_path: Path) -> None:
    canny = cs.load_control_model(CANNY)
    unit = cs.unit(image=str(photo), preprocessor="canny", model=canny, weight=0.8, end=0.6)
    drawing = cs.generate(base, prompt="a red star", units=[unit], seed=1, **SMALL)
    assert [each.size for each in drawing.images] == [(64, 64)] and drawing.seeds == (1,)
    assert [str(each) for each in drawing.firings] == ["2 of 3"]
    assert np.array_equal(np.asarray(drawing.hints[0]), np.asarray(cs.preprocess(photo, "canny")))
    plain = cs.generate(base, "a red star", seed=1, **SMALL)
    assert not np.array_equal(np.asarray(plain.images[0]), np.asarray(drawing.images[0]))
    assert drawing.sheet(32).height > 32


def test_words_mean_what_they_mean_on_the_command_line(photo: Path) -> None:
    unit = cs.unit(photo, CANNY, mode="My prompt is more important", curve="0: 1; 1: 0.2", basis="noise", weight="0.5")
    assert unit.mode is cs.ControlMode.PROMPT and unit.weight == 0.5
    assert unit.schedule == cs.Schedule(
        basis=cs.RangeBasis.NOISE, keyframes=(cs.Keyframe(at=0, weight=1), cs.Keyframe(at=1, weight=0.2))
    )
    with pytest.raises(cs.UnitError, match="no 'wieght'"):
        cs.unit(photo, CANNY, wieght=1)
    with pytest.raises(cs.UnitError, match="weight is 11"):
        cs.unit(photo, CANNY, weight=11)


def test_pictures_come_as_paths_pillow_and_pixels(photo: Path) -> None:
    with Image.open(photo) as opened:
        pillow = opened.convert("RGB")
    mask = np.zeros((64, 64), np.uint8)
    mask[:32] = 255
    units = [
        cs.unit(each, CANNY, preprocessor="canny", mask=shown)
        for each, shown in ((photo, mask), (pillow, Image.fromarray(mask)), (np.asarray(pillow), mask))
    ]
    assert all(unit.hint.equal(units[0].hint) for unit in units)
    assert all(unit.mask is not None and unit.mask.equal(units[0].mask) for unit in units)  # type: ignore[arg-type]


def test_several_prompts_are_several_pictures(base: Any) -> None:
    drawing = cs.generate(base, ["a red star", "a blue circle"], seed=3, **SMALL)
    assert drawing.seeds == (3, 4) and len(drawing.images) == 2


def test_a_notebook_shows_sheet_and_firings(base: Any, photo: Path) -> None:
    unit = cs.unit(photo, CANNY, preprocessor="canny")
    drawing = cs.generate(base, "a red star", units=[unit], **SMALL)
    assert drawing._repr_png_().startswith(b"\x89PNG")
    assert "acted on 3 of 3 steps" in drawing._repr_html_()


def test_a_pipeline_of_ones_own_is_controlled_and_left_as_it_was(base: Any, photo: Path) -> None:
    pipeline = base.pipeline
    call = {"num_inference_steps": 2, "height": 64, "width": 64, "output_type": "np"}
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    plain = pipeline("a red star", latents=noise, **call).images
    unit = cs.unit(photo, CANNY, preprocessor="canny")
    with cs.attach(pipeline, [unit]) as stack:
        controlled = pipeline("a red star", latents=noise, **call).images
        assert [str(each) for each in stack.firings()] == ["2 of 2"]
    assert not np.array_equal(plain, controlled)
    assert np.array_equal(plain, pipeline("a red star", latents=noise, **call).images)


def test_each_call_of_a_pipeline_is_a_run_of_its_own(base: Any, photo: Path) -> None:
    """The second picture of one `attach` has the range and the reuse of the first, and nothing of its residuals."""
    pipeline, call = base.pipeline, {"num_inference_steps": 4, "height": 64, "width": 64, "output_type": "latent"}
    first, second = (torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    unit = cs.unit(photo, CANNY, preprocessor="canny", reuse="0 2", end=0.75)
    with cs.attach(pipeline, [unit]) as stack:
        pipeline("a red star", latents=first, **call)
        found = pipeline("a red star", latents=second, **call).images
        assert stack.firings()[0].plain() == {"fired": 3, "steps": 4, "reused": 1}
    with cs.attach(pipeline, [unit]):
        alone = pipeline("a red star", latents=second, **call).images
    assert torch.equal(torch.as_tensor(found), torch.as_tensor(alone))


def test_a_picture_remembers_and_is_drawn_again_bit_for_bit(base: Any, photo: Path, tmp_path: Path) -> None:
    with Image.open(photo) as opened:
        pillow = opened.convert("RGB")
    units = [
        cs.unit(photo, CANNY, preprocessor="canny", weight=0.8, curve="0: 1; 1: 0.3", mode="prompt"),
        cs.unit(pillow, COLOUR, preprocessor="color", block_weights="soft:0.9", start=0.1),
    ]
    drawing = cs.generate(base, ["a red star", "a star"], units=units, negative="grey", seed=5, **SMALL)
    first, second = drawing.save(tmp_path / "out")
    remembered = read_picture_record(second)
    assert remembered.index == 1 and remembered.request.prompts[1] == "a star"
    assert list(remembered.units) == [unit.origin for unit in units]
    for old, new in zip((first, second), draw_again(second, tmp_path / "again"), strict=True):
        with Image.open(old) as before, Image.open(new) as after:
            assert np.array_equal(np.asarray(before), np.asarray(after))
            assert json.loads(before.info[KEY])["units"] == json.loads(after.info[KEY])["units"]


def test_a_file_that_changed_or_went_is_named_before_anything_is_loaded(base: Any, photo: Path, tmp_path: Path) -> None:
    unit = cs.unit(photo, CANNY, preprocessor="canny")
    (path,) = cs.generate(base, "a red star", units=[unit], **SMALL).save(tmp_path / "out")
    Image.new("RGB", (64, 64)).save(photo)
    with pytest.raises(cs.FileError, match="has changed"):
        draw_again(path, tmp_path / "again")
    photo.unlink()
    with pytest.raises(cs.FileError, match="is not there"):
        draw_again(path, tmp_path / "again")


def test_pictures_without_a_record_are_refused_by_a_sentence(photo: Path, tmp_path: Path) -> None:
    with pytest.raises(cs.FileError, match="holds no record"):
        read_picture_record(photo)
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(cs.FileError, match="no picture of a known format"):
        read_picture_record(tmp_path / "text.png")


def test_the_webui_reads_the_same_picture(base: Any, photo: Path, tmp_path: Path) -> None:
    from controlstack.units.webui.infotext import parse_generation, read

    unit = cs.unit(photo, CANNY, preprocessor="canny", weight=0.8)
    (path,) = cs.generate(base, "a red star", units=[unit], negative="grey, dull", **SMALL).save(tmp_path / "out")
    with Image.open(path) as picture:
        generation = parse_generation(picture.info["parameters"])
    assert generation.prompt == "a red star" and generation.negative == "grey, dull"
    assert generation.settings["Size"] == "64x64"
    assert read(generation.settings)[0]["weight"] == 0.8


def test_a_sampling_loop_of_ones_own_draws_what_a_pipeline_draws(base: Any, photo: Path) -> None:
    """The loop of docs/python.md, on the U-Net's own arguments, against the pipeline."""
    from controlstack.pipelines.attached import arguments
    from diffusers import DDIMScheduler

    pipeline, unit = base.pipeline, cs.unit(photo, CANNY, preprocessor="canny", weight=0.7)
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    pipeline.scheduler = scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    call = {"num_inference_steps": 3, "guidance_scale": 3.0, "height": 64, "width": 64, "output_type": "latent"}
    with cs.attach(pipeline, [unit]):
        expected = pipeline("a red star", negative_prompt="", latents=noise, **call).images
    positive, negative = pipeline.encode_prompt("a red star", torch.device("cpu"), 1, True, "")
    stack, latents = cs.ControlStack([unit]), noise * scheduler.init_noise_sigma
    for index, t in enumerate(scheduler.timesteps):
        x, context = torch.cat([latents, latents]), torch.cat([negative, positive])
        step = cs.Step(
            x=x,
            timestep=t.expand(2),
            context=context,
            cond=(False, True),
            progress=cs.progress_at(index, 3),
            pictures=(0, 0),
        )
        with torch.no_grad():
            answer = pipeline.unet(x, t, context, **arguments(pipeline.unet, stack(step), {})).sample
        uncond, cond = answer.chunk(2)
        latents = scheduler.step(uncond + 3.0 * (cond - uncond), t, latents).prev_sample
    assert (latents - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_a_model_that_reads_embeddings_names_the_encoder_that_it_needs(photo: Path) -> None:
    from controlstack.models.families.t2i_adapter import StyleAdapter, StyleModel

    model = StyleModel(StyleAdapter(width=8, context=16, count=2, layers=1), name="style")
    with pytest.raises(cs.PreprocessorError, match="choose clip_vision"):
        cs.unit(photo, model)
