"""Our units in a real AUTOMATIC1111 WebUI: exact to the last evaluation."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import webui_world
from webui_host import Drawing, Evaluation, Host, RequestError, encode
from webui_oracle import Oracle, Place, Wanted
from webui_units import SIZE, TOLERANCE, differ, photograph, same, unit

FILES = ("canny", "depth", "pose")


@dataclass(frozen=True)
class Case:
    """A request; `orders` is how many evaluations each step of a pass has, `steps` what the host says it has."""

    units: tuple[Wanted, ...]
    settings: dict[str, Any] = field(default_factory=dict)
    orders: tuple[int, ...] | None = None
    steps: int | None = None
    route: str = "txt2img"


HALF = np.zeros((SIZE, SIZE, 3), np.uint8)
HALF[:, : SIZE // 2] = 255
MORE_STEPS = {"steps": 5}
RANGE = {"guidance_start": 0.2, "guidance_end": 0.5}
BOTH_PASSES = {"enable_hr": True, "hr_scale": 1, "hr_upscaler": "Latent", "denoising_strength": 0.7}
CASES = {
    "none": Case(()),
    "one": Case((unit(),)),
    "two": Case((unit(), unit(1, "depth", weight=0.6))),
    "three": Case((unit(), unit(1, "depth", weight=0.6), unit(2, "pose", weight=1.4))),
    "two on one model": Case((unit(), unit(1, weight=0.7))),
    "adapter": Case((unit(file="t2i"),)),
    "adapter and controlnet": Case((unit(file="t2i", weight=0.8), unit(1))),
    "prompt": Case((unit(control_mode="My prompt is more important"),)),
    "control": Case((unit(control_mode="ControlNet is more important"), unit(1, "depth"))),
    "block weights": Case((unit(advanced_weighting=[0.1 * i for i in range(13)]),)),
    "region": Case((Wanted(hints={False: photograph()}, mask=HALF),)),
    "batch": Case((unit(control_mode="ControlNet is more important"),), {"batch_size": 2}),
    "range": Case((unit(**RANGE),), MORE_STEPS),
    "range of steps": Case((unit(**RANGE, range_basis="steps"),), MORE_STEPS),
    "DPM++ 2M": Case((unit(**RANGE),), {**MORE_STEPS, "sampler_name": "DPM++ 2M"}),
    "DDIM": Case((unit(**RANGE),), {**MORE_STEPS, "sampler_name": "DDIM"}, (1,) * 4, steps=5),
    "Heun": Case((unit(**RANGE),), {**MORE_STEPS, "sampler_name": "Heun"}, (2, 2, 2, 2, 1)),
    "DPM2": Case((unit(**RANGE, range_basis="steps"),), {**MORE_STEPS, "sampler_name": "DPM2"}, (2, 2, 2, 2, 1)),
    "DPM++ SDE": Case((unit(**RANGE),), {**MORE_STEPS, "sampler_name": "DPM++ SDE"}, (2, 2, 2, 2, 1)),
    "hires": Case((unit(**RANGE), unit(1, "depth", hr_option="Low res only")), {**MORE_STEPS, **BOTH_PASSES}),
    "hires only": Case((unit(hr_option="High res only"),), BOTH_PASSES),
    "img2img": Case((unit(),), {"steps": 8, "denoising_strength": 0.5}, (1,) * 5, route="img2img"),
    "img2img, strong": Case((unit(**RANGE),), {"steps": 8, "denoising_strength": 0.9}, (1,) * 8, route="img2img"),
}


@pytest.mark.parametrize("name", CASES)
def test_every_evaluation_equals_our_core_outside_the_host(webui: Host, oracle: Oracle, name: str) -> None:
    case = CASES[name]
    settings = dict(case.settings)
    if case.route == "img2img":
        settings["init_images"] = [encode(photograph(9))]
    drawing = webui.draw(*(each.request for each in case.units), route=case.route, record=True, **settings)
    orders = case.orders or (1,) * settings.get("steps", 3)
    places = [Place(step, last, case.steps or len(orders)) for step, n in enumerate(orders) for last in range(n)]
    for hires in sorted({seen.hires for seen in drawing.evaluations}):
        evaluations = [seen for seen in drawing.evaluations if seen.hires is hires]
        assert len(evaluations) == len(places)
        for place, seen in zip(places, evaluations, strict=True):
            answer = oracle.answer(seen, case.units, place)
            assert (seen.out - answer).abs().max() <= TOLERANCE * answer.abs().max(), (hires, place)


@pytest.mark.parametrize(
    ("settings", "begin", "end"),
    [({}, 1, 2), ({"batch_size": 2}, 2, 4), ({"prompt": "a cat AND a dog"}, 1, 3)],
)
def test_a_picture_is_one_row_until_its_prompts_set_it_apart(
    webui: Host, settings: dict[str, Any], begin: int, end: int
) -> None:
    drawing = webui.draw(unit().request, record=True, **settings)
    assert {(seen.control_rows[0], seen.control_rows[-1]) for seen in drawing.evaluations} == {(begin, end)}


@pytest.mark.parametrize("mode", ["Balanced", "My prompt is more important", "ControlNet is more important"])
def test_sdxl_equals_our_core(webui: Host, webui_models: Path, mode: str) -> None:
    oracle = Oracle(webui_models, webui_world.XL)
    wanted = (unit(file="xl", control_mode=mode), unit(1, "xl", weight=0.5))
    # its previews would need a network from the internet
    chosen = {"override_settings": {"sd_model_checkpoint": webui_world.XL, "live_previews_enable": False}}
    drawing = webui.draw(*(each.request for each in wanted), record=True, **chosen)
    assert all(seen.y is not None for seen in drawing.evaluations)
    for number, seen in enumerate(drawing.evaluations):
        answer = oracle.answer(seen, wanted, Place(number, 0, 3))
        assert (seen.out - answer).abs().max() <= TOLERANCE * answer.abs().max(), number
    with pytest.raises(RequestError, match="was trained for"):
        webui.draw(unit().request, **chosen)


@pytest.mark.parametrize("mode", ["Balanced", "My prompt is more important", "ControlNet is more important"])
def test_sd2_equals_our_core(webui: Host, webui_models: Path, mode: str) -> None:
    """A U-Net with linear transformers that predicts velocities."""
    oracle = Oracle(webui_models, webui_world.V2)
    wanted = (unit(file="v2", control_mode=mode, guidance_end=0.5), unit(1, "v2", weight=0.5))
    chosen = {"override_settings": {"sd_model_checkpoint": webui_world.V2}}
    drawing = webui.draw(*(each.request for each in wanted), record=True, **chosen)
    assert len(drawing.evaluations) == 3
    for number, seen in enumerate(drawing.evaluations):
        answer = oracle.answer(seen, wanted, Place(number, 0, 3))
        assert (seen.out - answer).abs().max() <= TOLERANCE * answer.abs().max(), number
    assert differ(drawing, webui.draw(**chosen)) > 1


def clean(seen: Evaluation, velocity: bool) -> torch.Tensor:
    """The latents that an evaluation sees in the noise, by the noise schedule of SD 1.x and 2.x."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    signal = (1 - betas).cumprod(0)[seen.time.round().long()][:, None, None, None]
    if velocity:
        return signal.sqrt() * seen.x - (1 - signal).sqrt() * seen.out
    return (seen.x - (1 - signal).sqrt() * seen.out) / signal.sqrt()


@pytest.mark.parametrize(("checkpoint", "file"), [(webui_world.NAME, "canny"), (webui_world.V2, "v2")])
def test_what_inpainting_keeps_is_the_same_at_every_step(webui: Host, checkpoint: str, file: str) -> None:
    """Also where the U-Net predicts velocities, which sd-webui-controlnet takes for noise."""
    asked = unit(file=file, module="inpaint_only", mask=encode(HALF)).request
    chosen = {"override_settings": {"sd_model_checkpoint": checkpoint}}
    drawing = webui.draw(asked, record=True, **chosen)
    seen = torch.cat([clean(each, checkpoint == webui_world.V2) for each in drawing.evaluations])
    spread = (seen - seen[:1]).abs().amax((0, 1, 2))
    kept = SIZE // 8 // 2 + 1  # in latent pixels; the mask reaches one further
    assert spread[kept:].max() < 1e-3 * seen.abs().max() < spread[: kept - 1].max()


@pytest.mark.parametrize("when", ["refiner", "hires"])
def test_another_checkpoint_is_followed(
    webui: Host, webui_models: Path, oracle: Oracle, plain: Drawing, when: str
) -> None:
    """One takes over in the middle of a run, and the first comes back afterwards."""
    other, wanted = Oracle(webui_models, webui_world.OTHER), (unit(), unit(1, "depth"))
    refiner = {"refiner_checkpoint": webui_world.OTHER, "refiner_switch_at": 0.5, "steps": 4}
    hires = {**BOTH_PASSES, "hr_checkpoint_name": webui_world.OTHER, "steps": 4}
    settings = refiner if when == "refiner" else hires
    drawing = webui.draw(*(each.request for each in wanted), record=True, **settings)
    assert len(drawing.evaluations) == (4 if when == "refiner" else 8)
    for number, seen in enumerate(drawing.evaluations):
        place = Place(number % 4, 0, 4)
        judge = other if (seen.hires if when == "hires" else number >= 2) else oracle
        answer = judge.answer(seen, wanted, place)
        assert (seen.out - answer).abs().max() <= TOLERANCE * answer.abs().max(), number
    assert webui.count()["hooks"] == 0
    assert same(webui.draw(), plain)


def test_a_unit_without_a_picture_sees_each_tile_of_an_upscaling_script(webui: Host, oracle: Oracle) -> None:
    """The last tile is what the test pack wrote down: the lower right quarter, for there is no overlap."""
    scene, asked, before = photograph(9, 2 * SIZE), unit().request, len(webui.log.read_text())
    script = {"script_name": "SD upscale", "script_args": ["", 0, 0, 2.0]}  # text, overlap, upscaler None, factor
    drawing = webui.draw(
        {**asked, "image": None}, route="img2img", init_images=[encode(scene)], steps=8, denoising_strength=0.5,
        record=True, **script,
    )  # fmt: skip
    wanted = Wanted(hints={False: scene[SIZE:, SIZE:]})
    assert len(drawing.evaluations) == 5 and drawing.pictures[0].shape == scene.shape
    for step, seen in enumerate(drawing.evaluations):
        answer = oracle.answer(seen, (wanted,), Place(step, 0, 5))
        assert (seen.out - answer).abs().max() <= TOLERANCE * answer.abs().max(), step
    assert webui.log.read_text()[before:].count("sees the whole control picture") == 0


def test_what_cuts_the_latents_is_said(webui: Host, plain: Drawing) -> None:
    webui.post("test/tile")
    webui.draw(unit().request)
    assert "(4x8 latent pixels instead of 8x8), and each part sees the whole control picture" in webui.log.read_text()
    assert same(webui.draw(), plain) and webui.count()["hooks"] == 0


@pytest.mark.parametrize("file", ["canny", "t2i"])
def test_the_hint_matters(webui: Host, file: str) -> None:
    """Else every equality above would hold for any hint."""
    one, other = (webui.draw(unit(seed, file).request) for seed in (0, 7))
    assert differ(one, other) > 5


NOTHING: dict[str, dict[str, Any]] = {
    "weight 0": {"weight": 0},
    "disabled": {"enabled": False},
    "out of range": {"guidance_start": 0.99},
    "empty region": {"effective_region_mask": encode(np.zeros((SIZE, SIZE, 3), np.uint8))},
    "weight 0 on every block": {"advanced_weighting": [0] * 13},
    "a curve at 0": {"curve": "0: 0"},
}


@pytest.mark.parametrize("name", NOTHING)
def test_what_cannot_act_changes_no_bit(webui: Host, plain: Drawing, name: str) -> None:
    settings = {**NOTHING[name], "save_detected_map": False}
    assert same(webui.draw(unit(**settings).request), plain)


def test_more_units_than_tabs_act(webui: Host) -> None:
    several = [unit(seed, FILES[seed % 3], weight=0.4).request for seed in range(7)]
    four, seven = (webui.draw(*several[:count]) for count in (4, 7))
    assert differ(four, seven) > 1
    assert len(seven.pictures) == 1 + 7


def test_the_text_of_a_picture_names_its_units(webui: Host) -> None:
    drawing = webui.draw(unit(weight=0.5).request)
    text = drawing.info["infotexts"][0]
    assert 'ControlNet 0: "Module: none, Model: canny, Weight: 0.5,' in text
