"""Every sampler and schedule of a real AUTOMATIC1111 WebUI, and every way in which it lays out its batches.

Each evaluation of the U-Net is compared with our core outside the host, which is told the step by what the sampler is
known to do, and the cond rows by the prompts that the rows were given.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import webui_world
from webui_host import Drawing, Evaluation, Host, encode
from webui_oracle import LAST_TIMESTEP, Oracle, Place, Wanted
from webui_units import TOLERANCE, photograph, same, unit

ONE, TWO, OWN = 1, 2, 0  # evaluations of a step but the last; 0: the sampler chooses its steps itself
SAMPLERS = {
    "DPM++ 2M": ONE, "DPM++ SDE": TWO, "DPM++ 2M SDE": ONE, "DPM++ 2M SDE Heun": ONE, "DPM++ 2S a": TWO,
    "DPM++ 3M SDE": ONE, "Euler a": ONE, "Euler": ONE, "LMS": ONE, "Heun": TWO, "DPM2": TWO, "DPM2 a": TWO,
    "DPM fast": ONE, "DPM adaptive": OWN, "Restart": TWO, "DDIM": ONE, "DDIM CFG++": ONE, "PLMS": ONE, "UniPC": ONE,
    "LCM": ONE,
}  # fmt: skip
SCHEDULES = (
    "Automatic", "Uniform", "Karras", "Exponential", "Polyexponential", "SGM Uniform", "KL Optimal", "Align Your Steps",
    "Simple", "Normal", "DDIM", "Beta",
)  # fmt: skip
TIMESTEPS = ("DDIM", "DDIM CFG++", "PLMS", "UniPC")  # they cut 1000 timesteps, and may make one step more or less
FILES = {"webui": "canny", "steps": "depth", "noise": "pose"}
STEPS = 5
HIRES = {"enable_hr": True, "hr_scale": 1, "hr_upscaler": "Latent", "denoising_strength": 0.7}
SECOND_SEES = {"steps": STEPS, "hr_second_pass_steps": 4}


def units(start: float = 0.0, end: float = 0.5) -> tuple[Wanted, ...]:
    """One in each basis of a range, on different models, so that a step on which one is wrongly on or off shows."""
    return tuple(
        unit(seed, file, guidance_start=start, guidance_end=end, range_basis=basis)
        for seed, (basis, file) in enumerate(FILES.items())
    )


def draw(host: Host, wanted: Sequence[Wanted], **settings: Any) -> Drawing:
    return host.draw(*(each.request for each in wanted), record=True, **settings)


def place(seen: Evaluation, number: int, order: int, first: Evaluation) -> Place:
    """Where the evaluation of this number, from 0, stands in its pass."""
    if order == OWN:
        step = max(0.0, 1 - float(seen.time[0] / first.time[0])) * seen.steps
        return Place(step, 0, seen.steps, seen.counted)
    return Place(min(number // order, seen.steps - 1), number % order, seen.steps, seen.counted)


def check(oracle: Oracle, wanted: Sequence[Wanted], evaluations: Sequence[Evaluation], order: int) -> None:
    """One pass; the denoiser may call the U-Net several times for one evaluation."""
    first = evaluations[0]
    for seen in evaluations:
        answer = oracle.answer(seen, wanted, place(seen, seen.call - first.call, order, first))
        far = (seen.out - answer).abs().max() / answer.abs().max()
        assert far <= TOLERANCE, (seen.call - first.call, float(seen.time[0]), seen.cond)


def count(evaluations: Sequence[Evaluation]) -> int:
    """Evaluations of the denoiser."""
    return len({seen.call for seen in evaluations})


def test_these_are_all_samplers_and_schedules(webui: Host) -> None:
    assert [each["name"] for each in webui.get("sdapi/v1/samplers")] == list(SAMPLERS)
    assert [each["label"] for each in webui.get("sdapi/v1/schedulers")] == list(SCHEDULES)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler(webui: Host, oracle: Oracle, sampler: str) -> None:
    seen = draw(webui, units(), sampler_name=sampler, steps=STEPS).evaluations
    order = SAMPLERS[sampler]
    if order and sampler not in TIMESTEPS:
        assert count(seen) == STEPS * order - (order - 1)
    check(oracle, units(), seen, order)


@pytest.mark.parametrize("sampler", ["Euler a", "Heun", "UniPC"])
def test_reuse_leaves_networks_alone_on_other_steps(webui: Host, sampler: str) -> None:
    """Every step computed is off, bit for bit; else the network runs on the steps that are named, for both rows."""
    order, drawn = SAMPLERS[sampler], {}
    for reuse in (None, [0, 1, 2, 3, 4], "0 3"):
        said = unit(0, "canny") if reuse is None else unit(0, "canny", reuse=reuse)
        drawn[str(reuse)] = draw(webui, [said], sampler_name=sampler, steps=STEPS)
    exact, every, two = drawn.values()
    assert same(exact, every) and not same(exact, two)
    ran = [bool(each.control_rows) for each in two.evaluations]
    assert ran == [number // order in (0, 3) for number in range(len(ran))]
    assert all(each.control_rows for each in exact.evaluations)
    text = two.info["infotexts"][0]
    assert "Reuse: 0 3" in text and "Reuse" not in exact.info["infotexts"][0]


@pytest.mark.parametrize("scene", [HIRES, {"batch_size": 2, "n_iter": 2}], ids=["hires", "several pictures"])
def test_reuse_begins_anew_with_each_pass_and_batch(webui: Host, scene: dict[str, Any]) -> None:
    drawing = draw(webui, [unit(0, "canny", reuse="0")], steps=3, **scene)
    ran = [bool(each.control_rows) for each in drawing.evaluations]
    assert ran.count(True) == 2 and ran[0] and ran[len(ran) // 2]


@pytest.mark.parametrize("sampler", ["Euler a", "DPM++ 2M"])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_schedule(webui: Host, oracle: Oracle, schedule: str, sampler: str) -> None:
    seen = draw(webui, units(0.2, 0.6), sampler_name=sampler, scheduler=schedule, steps=STEPS).evaluations
    check(oracle, units(0.2, 0.6), seen, ONE)


def test_restart_goes_back(webui: Host, oracle: Oracle) -> None:
    """From 20 steps on it adds noise again on its way, and evaluates at one noise at several steps."""
    seen = draw(webui, units(0.4, 0.7), sampler_name="Restart", steps=20).evaluations
    times = [float(each.time[0]) for each in seen]
    assert count(seen) == 39 and times != sorted(times, reverse=True)
    check(oracle, units(0.4, 0.7), seen, TWO)


@pytest.mark.parametrize("strength", [0.3, 1.0])
@pytest.mark.parametrize(
    "sampler", ["Euler a", "DPM++ 2M", "Heun", "DPM++ SDE", "DPM adaptive", "DDIM", "UniPC", "LCM"]
)
def test_img2img(webui: Host, oracle: Oracle, sampler: str, strength: float) -> None:
    scene = {"init_images": [encode(photograph(9))], "denoising_strength": strength, "route": "img2img"}
    seen = draw(webui, units(), sampler_name=sampler, steps=10, **scene).evaluations
    assert {each.steps for each in seen} == {4 if strength == 0.3 else 10}
    check(oracle, units(), seen, SAMPLERS[sampler])


PAIRS = [
    ("Euler a", "Heun"),
    ("Heun", "Euler a"),
    ("DPM++ SDE", "DDIM"),
    ("DPM adaptive", "DPM++ 2M"),
    ("UniPC", "DPM2"),
]


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_another_sampler_in_the_hires_pass(webui: Host, oracle: Oracle, first: str, second: str) -> None:
    settings = {**HIRES, **SECOND_SEES, "sampler_name": first, "hr_sampler_name": second}
    evaluations = draw(webui, units(), **settings).evaluations
    for hires, sampler in ((False, first), (True, second)):
        seen = [each for each in evaluations if each.hires is hires]
        assert {each.steps for each in seen} == {4 if hires else STEPS}
        check(oracle, units(), seen, SAMPLERS[sampler])


@pytest.mark.parametrize("sampler", ["Heun", "DDIM", "DPM++ SDE"])
def test_a_refiner_takes_over(webui: Host, webui_models: Path, oracle: Oracle, sampler: str) -> None:
    """At a noise that some samplers reach in the middle of a step."""
    other = Oracle(webui_models, webui_world.OTHER)
    refiner = {"refiner_checkpoint": webui_world.OTHER, "refiner_switch_at": 0.45}
    seen = draw(webui, units(), sampler_name=sampler, steps=STEPS, **refiner).evaluations
    switched = next(i for i, each in enumerate(seen) if LAST_TIMESTEP - float(each.time[0]) >= 450)
    assert 0 < switched < len(seen)
    for number, each in enumerate(seen):
        answer = (other if number >= switched else oracle).answer(
            each, units(), place(each, number, SAMPLERS[sampler], seen[0])
        )
        assert (each.out - answer).abs().max() <= TOLERANCE * answer.abs().max(), number


LONG = "a cat, " * 40
CONTROL = "ControlNet is more important"
BATCHES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # settings of the request, options of the host
    "usual": ({}, {}),
    "not batched": ({}, {"batch_cond_uncond": False}),
    "batch of two": ({"batch_size": 2}, {}),
    "batch of two, not batched": ({"batch_size": 2}, {"batch_cond_uncond": False}),
    "AND": ({"prompt": "a cat AND a bird :0.5 AND a tree"}, {}),
    "AND, not batched": ({"prompt": "a cat AND a bird :0.5"}, {"batch_cond_uncond": False}),
    "AND, batch of two": ({"prompt": "a cat AND a bird :0.5", "batch_size": 2}, {}),
    "scheduled prompt": ({"prompt": "a [cat:bird:0.5]", "negative_prompt": "a [dog:tree:0.5]"}, {}),
    "long": ({"prompt": LONG}, {"pad_cond_uncond": False}),
    "long, padded": ({"prompt": LONG}, {"pad_cond_uncond": True}),
    "long, padded as once": ({"prompt": LONG}, {"pad_cond_uncond_v0": True}),
    "long, not batched": ({"prompt": LONG}, {"batch_cond_uncond": False}),
    "long, batch of two": ({"prompt": LONG, "batch_size": 2}, {}),
    "long, AND, batch of two": ({"prompt": f"{LONG} AND a bird", "batch_size": 2}, {}),
    "long, AND, not batched": ({"prompt": f"{LONG} AND a bird", "batch_size": 2}, {"batch_cond_uncond": False}),
    "long negative": ({"negative_prompt": "a dog, " * 40}, {}),
    "long negative, padded": ({"negative_prompt": "a dog, " * 40}, {"pad_cond_uncond": True}),
    "skipped early": ({}, {"skip_early_cond": 0.4}),
    "skipped early, long, AND": ({"prompt": f"{LONG} AND a bird"}, {"skip_early_cond": 0.4}),
    "skipped every second": ({"s_min_uncond": 10}, {}),
    "skipped below": ({"s_min_uncond": 10, "batch_size": 2}, {"s_min_uncond_all": True}),
    "skipped, not batched": ({"s_min_uncond": 10}, {"s_min_uncond_all": True, "batch_cond_uncond": False}),
    "no guidance": ({"cfg_scale": 1}, {}),
}


@pytest.fixture(scope="module")
def webui_of_defaults(webui: Host) -> Host:
    """The host takes an overridden option back after a request only if somebody had set it before."""
    usual = {"batch_cond_uncond": True, "pad_cond_uncond": False, "pad_cond_uncond_v0": False, "skip_early_cond": 0}
    webui.post("sdapi/v1/options", {**usual, "s_min_uncond_all": False})
    return webui


@pytest.mark.parametrize("sampler", ["Euler a", "Heun"])
@pytest.mark.parametrize("name", BATCHES)
def test_every_batch(webui_of_defaults: Host, oracle: Oracle, name: str, sampler: str) -> None:
    settings, options = BATCHES[name]
    wanted = (unit(control_mode=CONTROL), unit(1, "depth", guidance_end=0.4))
    host, chosen = webui_of_defaults, {"override_settings": options, **settings}
    seen = draw(host, wanted, sampler_name=sampler, steps=STEPS, **chosen).evaluations
    guided = {each.call for each in seen if not all(each.cond)}
    assert len(guided) < count(seen) if name.startswith("skipped") else len(guided) == count(seen)
    assert guided and any(any(each.cond) for each in seen)
    check(oracle, wanted, seen, SAMPLERS[sampler])
