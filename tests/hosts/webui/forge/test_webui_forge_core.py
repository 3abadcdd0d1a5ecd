"""Our units in a real Forge and a real reForge against our core outside of them, and what stays when runs end badly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import forge_world
import numpy as np
import pytest
import torch
import webui_host
import webui_world
from controlstack.core.schedule import RangeBasis
from webui_host import Drawing, Host, Picture, RequestError, encode
from webui_oracle import Oracle, Place, Wanted

TOLERANCE = 1e-4  # of the answer's range
SIZE = 64


def photograph(seed: int = 0, size: int = SIZE) -> Picture:
    """Smooth, with many colours, so that no resizing takes it for a drawing."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 6, 6, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (size, size), mode="bilinear")[0]
    return (smooth.permute(1, 2, 0) * 255).byte().numpy()


def unit(seed: int = 0, file: str = "canny", **settings: Any) -> Wanted:
    return Wanted(file=file, hints={False: photograph(seed), True: photograph(seed)}, settings=settings)


def draw(host: Host, *units: Wanted, **settings: Any) -> Drawing:
    """Forge asks what a hires pass loads."""
    more = {"hr_additional_modules": ["Use same choices"]} if "enable_hr" in settings else {}
    return host.draw(*(each.request for each in units), record=True, **more, **settings)


def same(first: Drawing, second: Drawing) -> bool:
    return all(torch.equal(a.out, b.out) for a, b in zip(first.evaluations, second.evaluations, strict=True))


@pytest.fixture(scope="module")
def oracle(forge_models: Path) -> Oracle:
    return Oracle(forge_models, basis=RangeBasis.NOISE)


HALF = np.zeros((SIZE, SIZE, 3), np.uint8)
HALF[:, : SIZE // 2] = 255
RANGE = {"guidance_start": 0.2, "guidance_end": 0.6}
TWICE = (2, 2, 2, 2, 1)  # evaluations of five steps
HIRES = {"enable_hr": True, "hr_scale": 1, "hr_upscaler": "Latent", "denoising_strength": 0.7}
IMG2IMG = {"route": "img2img", "init_images": [encode(photograph(9))], "steps": 8}
# The units, the request, and how many calls of the U-Net each step has where that is not one.
CASES: dict[str, tuple[tuple[Wanted, ...], dict[str, Any], tuple[int, ...] | None]] = {
    "three": ((unit(), unit(1, "depth", weight=0.6), unit(2, "pose", weight=1.4)), {}, None),
    "two on one model": ((unit(), unit(1, weight=0.7)), {}, None),
    "adapter and controlnet": ((unit(file="t2i", weight=0.8), unit(1)), {}, None),
    "prompt": ((unit(control_mode="My prompt is more important"),), {}, None),
    "control": ((unit(control_mode="ControlNet is more important"), unit(1, "depth")), {}, None),
    "control, batch": ((unit(control_mode="ControlNet is more important"),), {"batch_size": 2}, None),
    "control, prompts of unequal length": (
        (unit(control_mode="ControlNet is more important"),), {"prompt": "a cat " * 60}, None,
    ),
    "without guidance": ((unit(control_mode="ControlNet is more important"),), {"cfg_scale": 1}, None),
    "block weights": ((unit(advanced_weighting=[0.1 * i for i in range(13)]),), {}, None),
    "region": ((Wanted(hints={False: photograph()}, mask=HALF),), {}, None),
    "range": ((unit(**RANGE),), {"steps": 6}, None),
    "range of steps": ((unit(**RANGE, range_basis="steps"),), {"steps": 6}, None),
    "range as in the WebUI": ((unit(**RANGE, range_basis="webui"),), {"steps": 6}, None),
    "DPM++ 2M, Karras": ((unit(**RANGE),), {"steps": 6, "sampler_name": "DPM++ 2M", "scheduler": "Karras"}, None),
    "Heun": ((unit(**RANGE, range_basis="steps"),), {"steps": 5, "sampler_name": "Heun"}, TWICE),
    "DPM2": ((unit(**RANGE, range_basis="steps"),), {"steps": 5, "sampler_name": "DPM2"}, TWICE),
    "DPM++ SDE": ((unit(**RANGE),), {"steps": 5, "sampler_name": "DPM++ SDE"}, TWICE),
    "DDIM": ((unit(**RANGE),), {"steps": 5, "sampler_name": "DDIM"}, (1,) * 4),
    "hires": ((unit(**RANGE), unit(1, "depth", hr_option="Low res only")), {"steps": 5, **HIRES}, None),
    "hires only": ((unit(hr_option="High res only"),), HIRES, None),
    "img2img": ((unit(),), {**IMG2IMG, "denoising_strength": 0.5}, (1,) * 5),
    "img2img, range": ((unit(**RANGE),), {**IMG2IMG, "denoising_strength": 0.9}, (1,) * 8),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_every_evaluation_equals_our_core_outside_the_host(ours: Host, oracle: Oracle, name: str) -> None:
    units, settings, orders = CASES[name]
    drawing = draw(ours, *units, **settings)
    orders = orders or (1,) * settings.get("steps", 3)
    places = [Place(step, last, len(orders)) for step, n in enumerate(orders) for last in range(n)]
    for hires in sorted({seen.hires for seen in drawing.evaluations}):
        evaluations = [seen for seen in drawing.evaluations if seen.hires is hires]
        assert len(evaluations) == len(places)
        for place, seen in zip(places, evaluations, strict=True):
            answer = oracle.answer(seen, units, place)
            assert (seen.out - answer).abs().max() <= TOLERANCE * answer.abs().max(), (hires, place)


@pytest.mark.parametrize("count", [1, 2])
def test_a_picture_is_one_row_until_its_prompts_set_it_apart(ours: Host, count: int) -> None:
    drawing = ours.draw(unit().request, record=True, batch_size=count)
    found = {(seen.control_rows[0], seen.control_rows[-1]) for seen in drawing.evaluations}
    assert (count, 2 * count) in found
    assert found <= {(count, 2 * count), (count, count)}  # Classic leaves out the negative prompt now and then


@pytest.mark.parametrize("mode", ["Balanced", "My prompt is more important", "ControlNet is more important"])
def test_sdxl_equals_our_core(program: Path, ours: Host, forge_models: Path, mode: str) -> None:
    oracle = Oracle(forge_models, webui_world.XL_PAIR, RangeBasis.NOISE)
    wanted = (unit(file="xl", control_mode=mode, guidance_end=0.7), unit(1, "xl", weight=0.5))
    chosen = {"override_settings": {"sd_model_checkpoint": webui_world.XL_PAIR}}
    drawing = draw(ours, *wanted, **chosen)
    assert len(drawing.evaluations) == 3 and all(seen.y is not None for seen in drawing.evaluations)
    for number, seen in enumerate(drawing.evaluations):
        answer = oracle.answer(seen, wanted, Place(number, 0, 3))
        assert (seen.out - answer).abs().max() <= TOLERANCE * answer.abs().max(), number
    with pytest.raises(RequestError, match="was trained for"):
        ours.draw(unit().request, **chosen)


def test_what_inpainting_keeps_comes_back_at_every_step(ours: Host) -> None:
    """Without noise between the steps, each step goes straight towards what was seen last, so it shows in the next."""
    asked = unit(module="inpaint_only", mask=encode(HALF)).request
    smooth = {"sampler_name": "Euler", "steps": 5}
    kept, free = (ours.draw(each, record=True, **smooth) for each in (asked, unit().request))
    kept_at = SIZE // 8 // 2 + 1  # in latent pixels; the mask reaches one further

    def towards(drawing: Drawing) -> torch.Tensor:
        """From the latents of two neighbouring steps what the sampler went for, [steps - 1, 4, 8, 8]."""
        betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
        signal = (1 - betas).cumprod(0)
        found = []
        for one, two in zip(drawing.evaluations, drawing.evaluations[1:], strict=False):
            sigmas = [((1 - signal) / signal).sqrt()[int(each.time[0].round())] for each in (one, two)]
            x = [each.x[0] * (sigma**2 + 1).sqrt() for each, sigma in zip((one, two), sigmas, strict=True)]
            found.append((sigmas[0] * x[1] - sigmas[1] * x[0]) / (sigmas[0] - sigmas[1]))
        return torch.stack(found)

    seen = towards(kept)
    spread = (seen - seen[:1]).abs().amax((0, 1, 2))
    assert spread[kept_at:].max() < 0.02 * seen.abs().max() < spread[: kept_at - 1].max()
    other = towards(free)
    assert (other - other[:1]).abs().amax((0, 1, 2))[kept_at:].max() > 0.1 * other.abs().max()


@pytest.mark.parametrize("when", ["refiner", "hires"])
def test_another_checkpoint_is_followed(ours: Host, forge_models: Path, oracle: Oracle, when: str) -> None:
    """One takes over in the middle of a run, and the first comes back afterwards."""
    plain = draw(ours)
    other = Oracle(forge_models, webui_world.OTHER, RangeBasis.NOISE)
    wanted = (unit(), unit(1, "depth"))
    refiner = {"refiner_checkpoint": webui_world.OTHER, "refiner_switch_at": 0.5, "steps": 4}
    hires = {**HIRES, "hr_checkpoint_name": webui_world.OTHER, "steps": 4}
    drawing = draw(ours, *wanted, **(refiner if when == "refiner" else hires))
    assert len(drawing.evaluations) == (4 if when == "refiner" else 8)
    for number, seen in enumerate(drawing.evaluations):
        judge = other if (seen.hires if when == "hires" else number >= 2) else oracle
        answer = judge.answer(seen, wanted, Place(number % 4, 0, 4))
        assert (seen.out - answer).abs().max() <= TOLERANCE * answer.abs().max(), number
    assert same(draw(ours), plain)


NOTHING: dict[str, dict[str, Any]] = {
    "weight 0": {"weight": 0},
    "disabled": {"enabled": False},
    "out of range": {"guidance_start": 0.9, "guidance_end": 0.95},
    "empty region": {"effective_region_mask": encode(np.zeros((SIZE, SIZE, 3), np.uint8))},
    "weight 0 on every block": {"advanced_weighting": [0] * 13},
    "colours with weight 0": {"module": "tile_colorfix", "weight": 0},
}


@pytest.mark.parametrize("name", NOTHING)
def test_what_cannot_act_changes_no_bit(ours: Host, name: str) -> None:
    assert same(draw(ours), draw(ours, unit(**NOTHING[name])))


FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "unknown model": ({"model": "cany"}, "did you mean canny"),
    "no picture": ({"image": ""}, "has no picture"),
    "wrong base": ({"model": "xl"}, "was trained for .* the loaded checkpoint is"),
    "style adapter": (
        {"model": "style"},
        "and the preprocessor none gives a picture: choose clip_vision",
    ),
    "weight": ({"weight": 11}, "expected -10 to 10"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults_are_answered_with_a_sentence_and_leave_nothing_behind(ours: Host, name: str) -> None:
    plain, (settings, words) = draw(ours), FAULTS[name]
    with pytest.raises(RequestError, match=words) as caught:
        ours.draw(unit().request, {**unit().request, **settings})
    assert caught.value.status == 422
    assert same(draw(ours), plain)


@pytest.mark.parametrize("module", ["none", "tile_colorfix"])
@pytest.mark.parametrize("how", ["raise", "interrupt"])
@pytest.mark.parametrize("call", [1, 3])
def test_a_run_that_ends_early_leaves_nothing_behind(ours: Host, module: str, how: str, call: int) -> None:
    asked = unit(module=module)
    plain, before = draw(ours), draw(ours, asked)
    ours.post(f"test/set?how={how}&call={call}")
    body: dict[str, Any] = {"steps": 6, "width": SIZE, "height": SIZE, "sampler_name": "Euler a", "prompt": "a cat"}
    body["alwayson_scripts"] = {"ControlNet": {"args": [asked.request]}}
    if how == "raise":
        with pytest.raises(RequestError, match="the test asked for a failure"):
            ours.post("sdapi/v1/txt2img", body)
    else:
        ours.post("sdapi/v1/txt2img", body)
    assert ours.count()["hooks"] == 0 and ours.count()["controls"] == 0
    assert same(draw(ours), plain) and same(draw(ours, asked), before)


def test_an_error_while_joining_ends_the_request(ours: Host) -> None:
    """The program prints and drops what scripts raise before the sampling, and would draw without control."""
    plain = draw(ours)
    ours.post("test/meddle?function=modules.shared.sd_model.encode_first_stage")
    with pytest.raises(RequestError, match="the test asked for a failure"):
        ours.draw(unit(module="tile_colorfix").request)
    assert same(draw(ours), plain)


# Flags beside the usual ones or instead of them, and how close the answers are to those of our core in fp32.
STARTS = {
    "offloading": ((*forge_world.FLAGS, "--always-offload-from-vram"), TOLERANCE),
    "in bf16": (("--always-cpu", "--attention-pytorch", "--unet-in-bf16"), 0.05),
}


@pytest.mark.parametrize("name", STARTS)
def test_other_memory_and_other_numbers(
    program: Path, forge_models: Path, oracle: Oracle, tmp_path: Path, name: str
) -> None:
    flags, tolerance = STARTS[name]
    units = (unit(low_vram=True), unit(1, "depth", weight=0.6))
    with forge_world.started(program, tmp_path, forge_models, built_in=False, flags=flags) as host:
        drawing = draw(host, *units)
        plain = draw(host)
    for step, seen in enumerate(drawing.evaluations):
        answer = oracle.answer(seen, units, Place(step, 0, 3))
        assert (seen.out - answer).abs().max() <= tolerance * answer.abs().max(), step
    first = drawing.evaluations[0].out
    assert (first - plain.evaluations[0].out).abs().max() > 3 * tolerance * first.abs().max()


def test_the_routes_answer(ours: Host) -> None:
    assert ours.get("controlnet/version") == {"version": 3}
    assert any(name.startswith("canny [") for name in ours.get("controlnet/model_list")["model_list"])
    assert "canny" in ours.get("controlnet/module_list")["module_list"]
    body = {"controlnet_module": "canny", "controlnet_input_images": [encode(photograph())]}
    assert webui_host.decode(ours.post("controlnet/detect", body)["images"][0]).shape[2] == 3
