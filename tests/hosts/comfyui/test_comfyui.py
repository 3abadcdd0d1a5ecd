"""Our nodes in a real ComfyUI: equal to the host's own where both can, and harmless whatever happens."""

from __future__ import annotations

import json
import random
import re
import shutil
from collections.abc import Iterator, Sequence
from threading import Timer
from typing import Any

import cv2
import pytest
from comfyui_host import ROOT, Graph, Host, Link, RunError, output
from comfyui_scene import SIZE, STEPS, Scene, difference
from torch import Tensor

TOLERANCE = 1e-5  # of the latents' range
SD_FILES = ("canny", "depth", "pose")


def plain(host: Host, **settings: Any) -> Tensor:
    return Scene(**settings).draw(host)


def test_hints_stay_on_nodes_that_need_not_run_again(comfyui: Host) -> None:
    if not comfyui.has("TestTwoDevices"):
        pytest.skip("this ComfyUI shows what nodes made in the run alone")
    for seed in (1, 2):
        scene = Scene(steps=1)
        unit = scene.unit(scene.ours("canny"), scene.picture(77))
        scene.apply(unit)
        scene.negative = scene.graph.add("TestPrompt", seed=seed)
        scene.graph.add("SaveLatent", samples=scene.sample(), filename_prefix="shown")
        assert comfyui.run(scene.graph)["outputs"][unit[0]]["images"]


def test_our_nodes_are_there(comfyui: Host) -> None:
    nodes = comfyui.get("object_info")
    ours = [name for name in nodes if name.startswith("ControlStack")]
    assert len(ours) >= 7
    for name in ours:
        given = {**nodes[name]["input"].get("required", {}), **nodes[name]["input"].get("optional", {})}
        silent = [key for key, (_, options) in given.items() if not options.get("tooltip")]
        assert not silent, (name, silent)
        assert all(nodes[name]["output_tooltips"]), name


CASES: dict[str, dict[str, Any]] = {
    "one": {"files": ("canny",)},
    "two": {"files": ("canny", "depth")},
    "three": {"files": SD_FILES},
    "adapter": {"files": ("t2i",)},
    "adapter and controlnet": {"files": ("t2i", "canny")},
    "strength": {"files": ("canny",), "strength": 0.65},
    "range": {"files": ("canny",), "start": 0.2, "end": 0.6},
    "batch": {"files": ("canny",), "batch": 2},
    "batch of hints": {"files": ("canny",), "batch": 2, "count": 2},
    "cfg 1": {"files": ("canny",), "cfg": 1.0},
    "cfg 7": {"files": ("canny", "depth"), "cfg": 7.0},
    "SDXL": {"files": ("xl",), "kind": "SDXL"},
}


@pytest.mark.parametrize("file", ["canny", "t2i"])
def test_the_hint_matters(comfyui: Host, file: str) -> None:
    """Else every equality below would hold for any hint."""
    results = []
    for seed in (0, 7):
        scene = Scene()
        scene.apply_theirs(scene.theirs(file), scene.picture(seed), 1.0)
        results.append(scene.draw(comfyui))
    assert difference(*results) > 0.03


@pytest.mark.parametrize("loader", ["theirs", "ours"])
@pytest.mark.parametrize("case", CASES)
def test_equals_the_host(comfyui: Host, case: str, loader: str) -> None:
    settings = dict(CASES[case])
    files: Sequence[str] = settings.pop("files")
    strength, start, end = settings.pop("strength", 1.0), settings.pop("start", 0.0), settings.pop("end", 1.0)
    count = settings.pop("count", 1)
    reference, scene = Scene(**settings), Scene(**settings)
    units: Link | None = None
    for seed, file in enumerate(files):
        reference.apply_theirs(reference.theirs(file), reference.picture(seed, count), strength, start, end)
        control = scene.theirs(file) if loader == "theirs" else scene.ours(file)
        units = scene.unit(control, scene.picture(seed, count), units, weight=strength, start=start, end=end)
    assert units is not None
    scene.apply(units)
    wanted, found = reference.draw(comfyui), scene.draw(comfyui)
    assert difference(wanted, plain(comfyui, **settings)) > 0.01, "the reference's control does nothing"
    assert difference(found, wanted) <= (0.0 if loader == "theirs" else TOLERANCE)


def test_the_hosts_apply_node_takes_our_model(comfyui: Host) -> None:
    reference, scene = Scene(), Scene()
    reference.apply_theirs(reference.theirs("canny"), reference.picture(), 0.8, 0.1, 0.7)
    scene.apply_theirs(scene.ours("canny"), scene.picture(), 0.8, 0.1, 0.7)
    assert difference(scene.draw(comfyui), reference.draw(comfyui)) <= TOLERANCE


def controlled(host: Host, **settings: Any) -> Tensor:
    """One unit of ours; `settings` are the unit's, but for those of the scene."""
    own = {name: settings.pop(name) for name in list(settings) if name in Scene.__dataclass_fields__}
    scene = Scene(**own)
    scene.apply(scene.unit(scene.ours(settings.pop("file", "canny")), scene.picture(), **settings))
    return scene.draw(host)


@pytest.mark.parametrize(
    ("settings", "rows"),
    [({}, {1, 2}), ({"batch": 2}, {2, 4}), ({"mode": "control"}, {1}), ({"kind": "SDXL", "file": "xl"}, {2})],
)
def test_a_picture_is_one_row_until_its_prompts_set_it_apart(
    comfyui: Host, settings: dict[str, Any], rows: set[int]
) -> None:
    own = {name: value for name, value in settings.items() if name in Scene.__dataclass_fields__}
    more = {name: value for name, value in settings.items() if name not in own}
    scene, token = Scene(**own), f"witness {settings}"
    control = scene.ours(more.pop("file", "canny"))
    seen = scene.graph.add("TestWitness", control_net=control, token=token)
    scene.apply(scene.unit(seen, scene.picture(), **more))
    scene.draw(comfyui)
    said = re.findall(re.escape(token) + r": (\d+) rows", comfyui.log.read_text())
    assert set(map(int, said)) == rows


def test_an_own_chain_may_begin_with_the_hosts_control(comfyui: Host) -> None:
    reference, scene = Scene(), Scene()
    for seed, file in enumerate(("canny", "depth")):
        reference.apply_theirs(reference.theirs(file), reference.picture(seed), 0.9)
    scene.apply_theirs(scene.theirs("canny"), scene.picture(0), 0.9)
    scene.apply(scene.unit(scene.theirs("depth"), scene.picture(1), weight=0.9))
    assert difference(scene.draw(comfyui), reference.draw(comfyui)) == 0


def test_the_hosts_control_may_follow_ours(comfyui: Host) -> None:
    reference, scene = Scene(), Scene()
    for seed, file in enumerate(("canny", "depth")):
        reference.apply_theirs(reference.theirs(file), reference.picture(seed), 0.9)
    scene.apply(scene.unit(scene.theirs("canny"), scene.picture(0), weight=0.9))
    scene.apply_theirs(scene.theirs("depth"), scene.picture(1), 0.9)
    assert difference(scene.draw(comfyui), reference.draw(comfyui)) == 0


@pytest.mark.parametrize("settings", [{"weight": 0.0}, {"enabled": False}])
def test_a_unit_that_cannot_act_is_none_and_asks_for_nothing(comfyui: Host, settings: dict[str, Any]) -> None:
    scene = Scene()
    nobody = scene.graph.add("TestPose", frames="[]")
    failing = scene.graph.add("ControlStackDrawPose", pose=nobody, **comfyui.defaults("ControlStackDrawPose"))
    unit = scene.unit(scene.ours("canny"), failing, **settings)
    scene.apply(unit)
    scene.graph.add("PreviewImage", images=output(unit, 1))  # of a hint that there is not
    assert (scene.draw(comfyui) == plain(comfyui)).all()


@pytest.mark.parametrize("loader", ["theirs", "ours"])
def test_modes_are_the_webuis_numbers(comfyui: Host, loader: str) -> None:
    """The prompt's mode equals block weights of 0.825 ** (12 - i); the control's leaves the uncond rows alone."""
    base = plain(comfyui)
    results = {}
    for name in ("balanced", "prompt", "control"):
        scene = Scene()
        control = scene.theirs("canny") if loader == "theirs" else scene.ours("canny")
        scene.apply(scene.unit(control, scene.picture(), mode=name))
        results[name] = scene.draw(comfyui)
    scene = Scene()
    weights = scene.graph.add("ControlStackBlockWeights", **{"preset": "soft", "preset.base": 0.825})
    scene.apply(scene.unit(scene.ours("canny"), scene.picture(), block_weights=weights))
    assert difference(scene.draw(comfyui), results["prompt"]) <= TOLERANCE
    positive_only = Scene()
    weights = positive_only.graph.add("ControlStackBlockWeights", **{"preset": "soft", "preset.base": 0.825})
    unit = positive_only.unit(positive_only.ours("canny"), positive_only.picture(), block_weights=weights)
    negative = positive_only.negative
    positive_only.apply(unit)
    positive_only.negative = negative
    assert difference(positive_only.draw(comfyui), results["control"]) <= TOLERANCE
    assert all(difference(result, base) > 0.01 for result in results.values())
    assert difference(results["prompt"], results["control"]) > 0.001


def test_a_drawn_curve_is_a_schedule(comfyui: Host) -> None:
    """A straight line drawn in the host's editor is the fade; through another point it is another picture."""
    choices_of = comfyui.get("object_info/ControlStackSchedule")["ControlStackSchedule"]["input"]["required"]["shape"]
    if "curve" not in [each["key"] for each in choices_of[1]["options"]]:
        pytest.skip("this ComfyUI has no editor for curves")

    def scheduled(**shape: Any) -> Tensor:
        scene = Scene()
        schedule = scene.graph.add("ControlStackSchedule", **shape)
        scene.apply(scene.unit(scene.ours("canny"), scene.picture(), schedule=schedule))
        return scene.draw(comfyui)

    def drawn(*points: tuple[float, float]) -> Tensor:
        return scheduled(shape="curve", **{"shape.curve": {"points": points, "interpolation": "monotone_cubic"}})

    fade = scheduled(shape="fade", **{"shape.first": 1.0, "shape.last": 0.0, "shape.easing": "linear"})
    assert difference(drawn((0, 1), (1, 0)), fade) <= TOLERANCE
    assert difference(drawn((0, 1), (0.3, 0.1), (1, 0)), fade) > 0.001


def test_masks_of_0_and_1_are_identities_and_halves_act_where_they_are(comfyui: Host) -> None:
    base, full = plain(comfyui), controlled(comfyui)

    def masked(share: float) -> Tensor:
        scene = Scene()
        mask = scene.graph.add("TestMask", share=share, size=SIZE)
        scene.apply(scene.unit(scene.ours("canny"), scene.picture(), mask=mask))
        return scene.draw(comfyui)

    assert (masked(0.0) == base).all()
    assert (masked(1.0) == full).all()
    change = (masked(0.5) - base).abs().mean(dim=(0, 1, 2))
    assert change[:6].mean() > 1.5 * change[10:].mean()


def test_pictures_have_weights_of_their_own(comfyui: Host) -> None:
    """Of three, the first has all of the unit, the last none."""

    def drawn(**shape: Any) -> Tensor:
        scene = Scene(batch=3)
        weights = scene.graph.add("ControlStackFrameWeights", **shape)
        scene.apply(scene.unit(scene.ours("canny"), scene.picture(), mask=weights))
        return scene.draw(comfyui)

    fade = {"shape": "fade", "shape.first": 1.0, "shape.last": 0.0, "shape.count": 3, "shape.easing": "linear"}
    found, base, full = drawn(**fade), plain(comfyui, batch=3), controlled(comfyui, batch=3)
    assert difference(found[:1], full[:1]) <= TOLERANCE
    assert difference(found[2:], base[2:]) <= TOLERANCE
    assert difference(found[1:2], controlled(comfyui, batch=3, weight=0.5)[1:2]) <= TOLERANCE
    assert (drawn(shape="numbers", **{"shape.weights": "1, 0.5, 0"}) == found).all()


@pytest.mark.parametrize(("basis", "at"), [("steps", 0.5), ("noise", 0.3), ("webui", 0.25)])
def test_keyframes_bring_masks_and_block_weights(comfyui: Host, basis: str, at: float) -> None:
    """One unit with two keyframes is two units with two ranges; no step is left out and none is done twice."""

    def parts(scene: Scene) -> tuple[dict[str, Link], dict[str, Link]]:
        mask = scene.graph.add("TestMask", share=0.5, size=SIZE)
        weights = scene.graph.add("ControlStackBlockWeights", **{"preset": "soft", "preset.base": 0.7})
        return {"mask": mask}, {"block_weights": weights}

    scene = Scene()
    first, second = parts(scene)
    last = scene.graph.add("ControlStackKeyframe", at=at, weight=0.5, easing="hold", **second)
    schedule = scene.graph.add("ControlStackKeyframe", at=0.0, weight=1.0, easing="hold", schedule=last, **first)
    scene.apply(scene.unit(scene.ours("canny"), scene.picture(), basis=basis, schedule=schedule))
    report = scene.graph.add("ControlStackReport", positive=scene.positive, latent=scene.sample())
    found = comfyui.latent(scene.graph, report)
    text = comfyui.run(scene.graph)["outputs"][report[0]]["text"][0]
    fired = [int(count) for count in re.findall(r"fires on (\d+) of", text)]
    assert len(fired) == 2 and sum(fired) == STEPS and all(fired)
    wanted = Scene()
    first, second = parts(wanted)
    until = at if basis == "steps" else at - 1e-9
    unit = wanted.unit(wanted.ours("canny"), wanted.picture(), basis=basis, end=until, **first)
    wanted.apply(wanted.unit(wanted.ours("canny"), wanted.picture(), unit, basis=basis, start=at, weight=0.5, **second))
    assert difference(found, wanted.draw(comfyui)) <= TOLERANCE
    assert difference(found, controlled(comfyui)) > 0.001


def test_the_negative_prompt_may_be_weighed_less(comfyui: Host) -> None:
    """At 1 it is the usual unit, at 0 the control of the positive prompt alone, in between neither."""
    positive_only = Scene()
    unit = positive_only.unit(positive_only.ours("canny"), positive_only.picture())
    negative = positive_only.negative
    positive_only.apply(unit)
    positive_only.negative = negative
    none, half = controlled(comfyui, uncond_weight=0.0), controlled(comfyui, uncond_weight=0.5)
    assert difference(none, positive_only.draw(comfyui)) <= TOLERANCE
    assert difference(half, none) > 0.001
    assert difference(half, controlled(comfyui, uncond_weight=1.0)) > 0.001
    assert (controlled(comfyui, uncond_weight=1.0) == controlled(comfyui)).all()


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m", "heun"])
def test_reuse_adds_again_what_was_computed(comfyui: Host, sampler: str) -> None:
    """Every step computed is off, bit for bit; half of them is neither that nor the first step's control alone."""
    drawn: dict[str, Tensor] = {}
    said: dict[str, str] = {}
    for reuse in ("off", "0 1 2 3", "0 2", "change:0", "0", "strong"):
        scene = Scene(steps=4, sampler=sampler)
        scene.apply(scene.unit(scene.ours("canny"), scene.picture(), reuse=reuse))
        report = scene.graph.add("ControlStackReport", positive=scene.positive, latent=scene.sample())
        drawn[reuse] = comfyui.latent(scene.graph, report)
        said[reuse] = comfyui.run(scene.graph)["outputs"][report[0]]["text"][0]
    for every in ("0 1 2 3", "change:0", "strong"):  # which computes six steps at least
        assert (drawn[every] == drawn["off"]).all() and "reused" not in said[every]
    assert "fires on 4 of 4 steps (ran on 2 of 4, reused on 2)" in said["0 2"]
    assert difference(drawn["0 2"], drawn["off"]) > 1e-5
    assert difference(drawn["0 2"], drawn["off"]) < difference(drawn["0"], drawn["off"])


def test_reuse_of_a_host_control_and_of_a_family_without_residuals(comfyui: Host) -> None:
    scene = Scene(steps=4)
    scene.apply(scene.unit(scene.theirs("canny"), scene.picture(), reuse="0 2"))
    report = scene.graph.add("ControlStackReport", positive=scene.positive, latent=scene.sample())
    assert "(ran on 2 of 4, reused on 2)" in comfyui.run(scene.graph)["outputs"][report[0]]["text"][0]


def test_reuse_that_means_nothing_is_refused(comfyui: Host) -> None:
    with pytest.raises(RunError, match=r"reuse has the change 1\.5, expected 0 to 1"):
        controlled(comfyui, reuse="change:1.5")


OWN_PLACES = {"dpm_fast", "dpm_adaptive"}  # samplers that evaluate where they like, on no step of the schedule


def choices(host: Host, name: str) -> list[str]:
    """What the host's sampler node offers."""
    given = host.get("object_info/KSampler")["KSampler"]["input"]["required"][name]
    return given[0] if isinstance(given[0], list) else given[1]["options"]


def fired(host: Host, **settings: Any) -> str:
    """What the report says of a unit that acts from 0.3 to 0.6 of three steps."""
    scene = Scene(steps=3, **settings)
    scene.apply(scene.unit(scene.ours("canny"), scene.picture(), basis="steps", start=0.3, end=0.6))
    report = scene.graph.add("ControlStackReport", positive=scene.positive, latent=scene.sample())
    return host.run(scene.graph)["outputs"][report[0]]["text"][0]


@pytest.mark.parametrize("denoise", [1.0, 0.5])
def test_a_range_of_steps_means_steps(comfyui: Host, denoise: float) -> None:
    """With every sampler that keeps to the schedule, and every schedule; heun evaluates twice a step."""
    samplers = set(choices(comfyui, "sampler_name")) - OWN_PLACES
    pairs = [(sampler, "karras") for sampler in sorted(samplers)]
    pairs += [(sampler, schedule) for sampler in ("euler", "heun") for schedule in choices(comfyui, "scheduler")]
    said = {pair: fired(comfyui, sampler=pair[0], scheduler=pair[1], denoise=denoise) for pair in pairs}
    assert len(said) > 40
    assert not {pair: text for pair, text in said.items() if "fires on 1 of 3 steps" not in text}


@pytest.mark.parametrize("sampler", sorted(OWN_PLACES))
def test_samplers_with_places_of_their_own_are_controlled_too(comfyui: Host, sampler: str) -> None:
    settings = {"sampler": sampler, "steps": 8}
    half = controlled(comfyui, basis="steps", end=0.5, **settings)
    assert difference(half, plain(comfyui, **settings)) > 0.01
    assert difference(half, controlled(comfyui, **settings)) > 0.001


def regional(host: Host, *, hint: str = "same", first: str = "right", applied: str = "once") -> Tensor:
    """Two prompts, each for one half. hint: "moved" shows another picture in the half that the control is not for.
    first: which prompt the host computes first. applied: "twice" is a unit in each of two Apply nodes."""
    scene = Scene(cfg=1.0)
    picture = scene.picture()
    half = {"width": SIZE // 2, "height": SIZE, "y": 0}
    if hint == "moved":
        other = scene.picture(9)
        cut = scene.graph.add("ImageCrop", image=other, x=0, **half)
        paste = {"x": 0, "y": 0, "resize_source": False}
        picture = scene.graph.add("ImageCompositeMasked", destination=picture, source=cut, **paste)
    plain_prompt = scene.graph.add("TestPrompt", seed=5)
    unit = scene.unit(scene.ours("canny"), picture)
    if applied == "twice":
        scene.apply(unit)
        unit = scene.unit(scene.ours("depth"), picture)
    elif applied == "both":
        unit = scene.unit(scene.ours("depth"), picture, unit)
    scene.apply(unit)
    add = scene.graph.add
    right = add("ConditioningSetArea", conditioning=scene.positive, strength=1.0, x=SIZE // 2, **half)
    left = add("ConditioningSetArea", conditioning=plain_prompt, strength=1.0, x=0, **half)
    order = (right, left) if first == "right" else (left, right)
    scene.positive = add("ConditioningCombine", conditioning_1=order[0], conditioning_2=order[1])
    return scene.draw(host)


def test_regions_read_their_part_of_the_hint(comfyui: Host) -> None:
    """The right half does not see what the hint shows on the left, in whichever order the host computes the halves."""
    wanted = regional(comfyui)
    assert difference(regional(comfyui, hint="moved"), wanted) == 0
    assert difference(regional(comfyui, first="left"), wanted) <= TOLERANCE


def test_regions_are_known_to_every_apply_node(comfyui: Host) -> None:
    wanted = regional(comfyui, applied="both")
    assert difference(wanted, regional(comfyui)) > 0.001
    assert difference(regional(comfyui, applied="twice"), wanted) <= TOLERANCE


def test_the_first_region_knows_the_others(comfyui: Host) -> None:
    """Controlled prompts for both halves: whichever comes first, and from one Apply node or two, the same picture."""

    def halves(order: Sequence[int], applies: int) -> Tensor:
        scene = Scene(cfg=1.0, steps=1)
        other = scene.negative
        unit = scene.unit(scene.ours("canny"), scene.picture())
        scene.apply(unit)
        if applies == 2:
            again = scene.graph.add("ControlStackApplyControlUnits", positive=other, negative=other, units=unit)
        else:
            again = scene.negative
        area = {"width": SIZE // 2, "height": SIZE, "y": 0, "strength": 1.0}
        parts = [
            scene.graph.add("ConditioningSetArea", conditioning=each, x=x, **area)
            for each, x in ((scene.positive, 0), (again, SIZE // 2))
        ]
        first, second = (parts[index] for index in order)
        scene.positive = scene.graph.add("ConditioningCombine", conditioning_1=first, conditioning_2=second)
        return scene.draw(comfyui)

    wanted = halves((0, 1), 1)
    assert difference(halves((1, 0), 1), wanted) <= TOLERANCE
    assert difference(halves((0, 1), 2), wanted) <= TOLERANCE
    assert difference(halves((1, 0), 2), wanted) <= TOLERANCE


@pytest.mark.parametrize("loader", ["theirs", "ours"])
@pytest.mark.parametrize("mode", ["balanced", "control"])
def test_two_devices_draw_what_one_draws(comfyui: Host, loader: str, mode: str) -> None:
    """Also with a control of the host before ours, and regions."""
    if not comfyui.has("TestTwoDevices"):
        pytest.skip("this ComfyUI computes a step on one device")

    def drawn(devices: int, control: bool = True) -> Tensor:
        scene = Scene()
        if control:
            scene.apply_theirs(scene.theirs("depth"), scene.picture(1), 0.5)
            load = scene.ours if loader == "ours" else scene.theirs
            units = scene.unit(load("canny"), scene.picture(), mode=mode)
            scene.apply(scene.unit(load("canny"), scene.picture(4), units, weight=0.5))
            half = {"width": SIZE // 2, "height": SIZE, "y": 0, "strength": 1.0, "conditioning": scene.positive}
            left, right = (scene.graph.add("ConditioningSetArea", x=x, **half) for x in (0, SIZE // 2))
            scene.positive = scene.graph.add("ConditioningCombine", conditioning_1=left, conditioning_2=right)
        if devices == 2:
            scene.model = scene.graph.add("TestTwoDevices", kind=scene.kind, seed=0)
        return scene.draw(comfyui)

    wanted = drawn(1)
    assert difference(drawn(2), wanted) <= TOLERANCE
    assert difference(wanted, drawn(1, control=False)) > 0.01


def test_deep_shrink_is_no_loss_of_control(comfyui: Host) -> None:
    def shrunk(control: bool) -> Tensor:
        scene = Scene()
        if control:
            scene.apply(scene.unit(scene.ours("canny"), scene.picture()))
        settings = {"block_number": 3, "downscale_factor": 2.0, "start_percent": 0.0, "end_percent": 1.0}
        methods = {"downscale_method": "bicubic", "upscale_method": "bicubic"}
        scene.model = scene.graph.add(
            "PatchModelAddDownscale", model=scene.model, downscale_after_skip=True, **settings, **methods
        )
        return scene.draw(comfyui)

    assert difference(shrunk(control=True), shrunk(control=False)) > 0.01
    assert "could not be applied" not in comfyui.log.read_text()


FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "wrong base": ({"file": "xl"}, "unit 1: 'xl' was trained for .* the loaded checkpoint is"),
    "steps that never come": ({"basis": "steps", "start": 0.3, "end": 0.4}, "fires on 0 of 4 steps.*disable the unit"),
    "range upside down": ({"start": 0.8, "end": 0.2}, "starts at 0.8, after its end 0.2"),
    "unknown preprocessor": ({"preprocessor": "cany"}, "none of ours: choose one"),
    "weight too large": ({"weight": 11.0}, "weight is 11, expected -10 to 10"),
    "no control model": ({"file": "lora"}, "is no control model: it is a LoRA"),
}


@pytest.mark.parametrize("settings", [{"start": 0.8, "end": 0.2}, {"preprocessor": "cany"}, {"weight": 11.0}])
def test_a_fault_is_said_once_and_marks_no_input_of_another_meaning(comfyui: Host, settings: dict[str, Any]) -> None:
    with pytest.raises(RunError) as error:
        controlled(comfyui, **settings)
    (node,) = json.loads(str(error.value))["node_errors"].values()
    (said,) = node["errors"]
    info = comfyui.get("object_info/ControlStackControlUnit")["ControlStackControlUnit"]["input"]
    assert said["extra_info"]["input_name"] not in {**info["required"], **info["optional"]}
    assert said["extra_info"]["exception_type"] in {"controlstack.UnitError", "controlstack.ScheduleError"}


@pytest.mark.parametrize(("name", "value"), [("weight", "abc"), ("weight", {"a": 1}), ("start", "early"), ("end", {})])
def test_what_is_no_number_is_told_at_its_input(comfyui: Host, name: str, value: Any) -> None:
    with pytest.raises(RunError) as error:
        controlled(comfyui, **{name: value})
    (node,) = json.loads(str(error.value))["node_errors"].values()
    assert [(each["type"], each["extra_info"]["input_name"]) for each in node["errors"]] == [
        ("invalid_input_type", name)
    ]
    assert str(value) in node["errors"][0]["details"]


def test_errors_of_a_run_have_their_public_names(comfyui: Host) -> None:
    with pytest.raises(RunError, match=r"\[controlstack\.IncompatibleModelError\]"):
        controlled(comfyui, file="xl")


def test_units_of_older_graphs_are_chained(comfyui: Host) -> None:
    """Their input for the units before had another name."""

    def chained(name: str) -> Tensor:
        scene = Scene()
        first = scene.unit(scene.ours("canny"), scene.picture())
        scene.apply(scene.unit(scene.ours("depth"), scene.picture(3), **{name: first}))
        return scene.draw(comfyui)

    assert (chained("units") == chained("units_before")).all()
    assert difference(chained("units"), controlled(comfyui)) > 0.001


def test_parameters_that_are_left_out_are_at_their_defaults(comfyui: Host) -> None:
    given = {"preprocessor.low": 100, "preprocessor.high": 200}
    assert (controlled(comfyui, preprocessor="canny") == controlled(comfyui, preprocessor="canny", **given)).all()


@pytest.mark.parametrize("load", ["ours", "theirs"])
def test_a_unit_is_named_after_its_file_whoever_loaded_it(comfyui: Host, load: str) -> None:
    scene = Scene()
    file = scene.ours("canny")
    if load == "theirs":  # with a node between the loader and the unit
        file = scene.graph.add("TestUnion", control_net=scene.theirs("canny"), typed=False)
    scene.apply(scene.unit(file, scene.picture()))
    report = scene.graph.add("ControlStackReport", positive=scene.positive, latent=scene.sample())
    assert comfyui.run(scene.graph)["outputs"][report[0]]["text"][0].startswith("1. canny: fires on")


def test_one_node_is_the_three(comfyui: Host) -> None:
    def one(**settings: Any) -> Tensor:
        scene = Scene()
        given = {"positive": scene.positive, "negative": scene.negative, "image": scene.picture()}
        usual = {"control_net": "canny.safetensors", "weight": 0.8, "start": 0.0, "end": 0.9, "preprocessor": "canny"}
        made = scene.graph.add("ControlStackControlInOne", **given, **{**usual, **settings})
        scene.positive, scene.negative = made, output(made, 1)
        return scene.draw(comfyui)

    dark = {"preprocessor": "threshold", "preprocessor.threshold": 60}
    assert (one(**dark) == controlled(comfyui, weight=0.8, end=0.9, **dark)).all()
    assert difference(one(**dark), one(**{**dark, "preprocessor.threshold": 200})) > 0.001
    assert (one(weight=0.0) == plain(comfyui)).all()
    for wrong, words in (({"start": 0.95}, "starts at 0.95, after its end 0.9"), ({"weight": 30}, "weight is 30")):
        with pytest.raises(RunError, match=words):
            one(**wrong)


def test_tooltips_are_short(comfyui: Host) -> None:
    for name, node in comfyui.get("object_info").items():
        if name.startswith("ControlStack"):
            given = {**node["input"].get("required", {}), **node["input"].get("optional", {})}
            assert max(len(options["tooltip"]) for _, options in given.values()) < 400, name


@pytest.mark.parametrize("count", [2, 5])
def test_hints_repeat_or_are_left_out_as_the_hosts_do(comfyui: Host, count: int) -> None:
    reference, scene = Scene(batch=3), Scene(batch=3)
    reference.apply_theirs(reference.theirs("canny"), reference.picture(0, count), 1.0)
    scene.apply(scene.unit(scene.theirs("canny"), scene.picture(0, count)))
    assert (scene.draw(comfyui) == reference.draw(comfyui)).all()
    assert f"unit 1 (canny) has {count} hints for 3 pictures" in comfyui.log.read_text()


def test_masks_repeat_or_are_left_out_as_hints_do(comfyui: Host) -> None:
    def drawn(count: int) -> Tensor:
        scene = Scene(batch=2)
        masks = scene.graph.add("ImageToMask", image=scene.picture(5, count), channel="red")
        scene.apply(scene.unit(scene.ours("canny"), scene.picture(), mask=masks))
        return scene.draw(comfyui)

    three, four = drawn(3), drawn(4)
    assert (three == four).all()
    assert difference(three, drawn(1)) > 0.001


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_said_and_leave_nothing_behind(comfyui: Host, fault: str) -> None:
    before = controlled(comfyui)
    settings, words = FAULTS[fault]
    with pytest.raises(RunError, match=words):
        controlled(comfyui, **settings)
    assert (controlled(comfyui) == before).all()
    assert (plain(comfyui) == plain(comfyui, steps=STEPS)).all()


@pytest.mark.parametrize("how", ["raise", "interrupt"])
@pytest.mark.parametrize("call", [1, 3])
def test_a_run_that_fails_leaves_nothing_behind(comfyui: Host, how: str, call: int) -> None:
    before, uncontrolled = controlled(comfyui), plain(comfyui)
    scene = Scene()
    scene.apply(scene.unit(scene.ours("canny"), scene.picture()))
    scene.model = scene.graph.add("TestFailure", model=scene.model, how=how, call=call, token=call)
    with pytest.raises(RunError, match=r"interrupted|asked for"):
        scene.draw(comfyui)
    assert (controlled(comfyui) == before).all()
    assert (plain(comfyui) == uncontrolled).all()


def test_a_control_of_an_unknown_kind_is_weighed(comfyui: Host) -> None:
    reference, scene = Scene(), Scene()
    reference.apply_theirs(reference.graph.add("TestUnknown", needs_vae=False), reference.picture(), 0.5)
    scene.apply(scene.unit(scene.graph.add("TestUnknown", needs_vae=False), scene.picture(), weight=0.5))
    wanted = reference.draw(comfyui)
    assert difference(wanted, plain(comfyui)) > 0.01
    assert (scene.draw(comfyui) == wanted).all()


def test_what_a_control_misses_is_said_before_the_run(comfyui: Host) -> None:
    scene = Scene()
    scene.apply(scene.unit(scene.graph.add("TestUnknown", needs_vae=True), scene.picture()))
    with pytest.raises(RunError, match="reads hints as latents and needs a VAE: connect one to Apply Control Units"):
        scene.draw(comfyui)
    deaf = Scene()
    deaf.apply(deaf.unit(deaf.ours("canny"), deaf.picture()))
    deaf.model = deaf.graph.add("TestDeaf", model=deaf.model)
    with pytest.raises(RunError, match="ignores control"):
        deaf.draw(comfyui)


def test_masked_prompts_keep_their_control(comfyui: Host) -> None:
    """A prompt that is masked to everything is the prompt; one masked to a half is not, with or without control."""

    def masked(share: float, control: bool) -> Tensor:
        scene = Scene()
        if control:
            scene.apply(scene.unit(scene.ours("canny"), scene.picture()))
        mask = scene.graph.add("TestMask", share=share, size=SIZE)
        given = {"strength": 1.0, "set_cond_area": "default"}
        scene.positive = scene.graph.add("ConditioningSetMask", conditioning=scene.positive, mask=mask, **given)
        return scene.draw(comfyui)

    assert difference(masked(1.0, control=True), controlled(comfyui)) <= TOLERANCE
    assert difference(masked(0.5, control=True), masked(0.5, control=False)) > 0.01


def test_a_second_pass_reads_the_original_hint(comfyui: Host) -> None:
    """Shared by both passes, or made anew for the larger one: the same picture."""

    def passes(shared: bool) -> Tensor:
        scene = Scene()
        picture = scene.picture(size=2 * SIZE)
        prompts = scene.positive, scene.negative
        scene.apply(scene.unit(scene.ours("canny"), picture))
        first = scene.sample()
        scene.latent = scene.graph.add("LatentUpscaleBy", samples=first, upscale_method="bilinear", scale_by=2.0)
        scene.denoise = 0.6
        if not shared:
            scene.positive, scene.negative = prompts
            scene.apply(scene.unit(scene.ours("canny"), picture))
        return scene.draw(comfyui)

    assert (passes(shared=True) == passes(shared=False)).all()


def test_a_union_model_may_be_told_its_type_or_not(comfyui: Host) -> None:
    def union(typed: bool) -> Tensor:
        scene = Scene()
        control = scene.graph.add("TestUnion", control_net=scene.theirs("canny"), typed=typed)
        scene.apply(scene.unit(control, scene.picture()))
        return scene.draw(comfyui)

    assert (union(typed=True) == union(typed=False)).all()


def typed(scene: Scene, control: Link, kind: str) -> Link:
    """A control that the host's own node was told the kind of."""
    return scene.graph.add("SetUnionControlNetType", control_net=control, type=kind)


def their_union(scene: Scene) -> Link:
    return scene.graph.add("TestTheirUnion", file="union.safetensors")


UNIONS = {  # how a unit says what the host's own node would: (by the node, in the unit)
    "the host's node": ("depth", {}),
    "its options": ("auto", {"options": "union_control_type=depth"}),
    "automatic": ("auto", {}),
    "the lines of several preprocessors": ("canny/lineart/anime_lineart/mlsd", {}),
}


@pytest.mark.parametrize("loader", ["theirs", "ours"])
@pytest.mark.parametrize("how", UNIONS)
def test_a_union_equals_the_hosts(comfyui: Host, loader: str, how: str) -> None:
    by_node, in_unit = UNIONS[how]
    reference, scene = Scene(kind="SDXL"), Scene(kind="SDXL")
    kind = "depth" if in_unit else by_node
    reference.apply_theirs(typed(reference, their_union(reference), kind), reference.picture(), 0.8)
    control = their_union(scene) if loader == "theirs" else scene.ours("union")
    scene.apply(scene.unit(typed(scene, control, by_node), scene.picture(), weight=0.8, **in_unit))
    wanted, found = reference.draw(comfyui), scene.draw(comfyui)
    assert difference(wanted, plain(comfyui, kind="SDXL")) > 0.01
    assert difference(found, wanted) <= (0.0 if loader == "theirs" else TOLERANCE)


def test_a_kind_makes_a_difference_and_follows_from_the_preprocessor(comfyui: Host) -> None:
    def drawn(**settings: str) -> Tensor:
        scene = Scene(kind="SDXL")
        numbers = {"preprocessor.low": 100, "preprocessor.high": 200}
        scene.apply(scene.unit(scene.ours("union"), scene.picture(), preprocessor="canny", **numbers, **settings))
        return scene.draw(comfyui)

    canny = drawn()
    assert (canny == drawn(options="union_control_type=hard edge")).all()
    assert difference(canny, drawn(options="union_control_type=auto")) > 1e-3


def test_the_hosts_apply_node_tells_our_union_its_kind(comfyui: Host) -> None:
    reference, scene = Scene(kind="SDXL"), Scene(kind="SDXL")
    reference.apply_theirs(typed(reference, their_union(reference), "normal"), reference.picture(), 0.8)
    scene.apply_theirs(typed(scene, scene.ours("union"), "normal"), scene.picture(), 0.8)
    assert difference(scene.draw(comfyui), reference.draw(comfyui)) <= TOLERANCE


def test_modes_act_on_the_hosts_union_and_two_kinds_in_one_pass_need_our_loader(comfyui: Host) -> None:
    def drawn(ours: bool, **settings: str) -> Tensor:
        scene = Scene(kind="SDXL")
        control = scene.ours("union") if ours else their_union(scene)
        scene.apply(scene.unit(control, scene.picture(), **settings))
        return scene.draw(comfyui)

    one = {"mode": "control", "options": "union_control_type=depth"}
    assert difference(drawn(True, **one), drawn(False, **one)) <= TOLERANCE
    two = {"options": "union_control_type=depth+canny:0.5"}
    assert difference(drawn(True, **two), plain(comfyui, kind="SDXL")) > 0.01
    with pytest.raises(RunError, match="unions read one kind of hint at a time"):
        drawn(False, **two)


def test_prompts_pass_where_the_only_unit_was_taken_out(comfyui: Host) -> None:
    scene = Scene()
    made = scene.graph.add("ControlStackApplyControlUnits", positive=scene.positive, negative=scene.negative)
    scene.positive, scene.negative = made, output(made, 1)
    assert (scene.draw(comfyui) == plain(comfyui)).all()


def test_a_file_that_was_replaced_is_loaded_again(comfyui: Host) -> None:
    folder = comfyui.base / "models" / "controlnet"
    shutil.copy(folder / "canny.safetensors", folder / "replaced.safetensors")
    before = controlled(comfyui, file="replaced")
    shutil.copy(folder / "depth.safetensors", folder / "replaced.safetensors")
    after = controlled(comfyui, file="replaced")
    assert difference(before, after) > 0.01
    assert (after == controlled(comfyui, file="depth")).all()


def test_networks_of_preprocessors_live_in_the_hosts_memory(comfyui: Host) -> None:
    for factor in (0.25, 0.75):
        graph = Graph()
        image = graph.add("MaskToImage", mask=graph.add("TestNetwork", factor=factor))
        shown = graph.add("PreviewImage", images=image)
        file = comfyui.run(graph)["outputs"][shown[0]]["images"][0]["filename"]
        assert abs(int(cv2.imread(str(comfyui.base / "temp" / file)).mean()) - 255 * factor) < 1.5


def test_a_preprocessor_without_its_package_is_refused_before_the_run(comfyui: Host) -> None:
    """Whatever the host's Python lacks: each preprocessor either validates or says which package it needs."""
    scene = Scene()
    face = {"preprocessor": "mediapipe_face", "preprocessor.faces": 1, "preprocessor.confidence": 0.5}
    scene.apply(scene.unit(scene.ours("canny"), scene.picture(), **face))
    with pytest.raises(RunError, match="mediapipe_face cannot run here: it needs mediapipe"):
        scene.draw(comfyui)
    off = Scene()
    off.apply(off.unit(off.ours("canny"), off.picture(), enabled=False, **face))
    assert (off.draw(comfyui) == plain(comfyui)).all()


def test_units_travel_through_a_webuis_text(comfyui: Host) -> None:
    """Written, and read again, they draw the same picture."""
    canny = {"preprocessor": "canny", "preprocessor.low": 40, "preprocessor.high": 90, "resolution": SIZE}
    scene = Scene()
    picture = scene.picture()
    units = scene.unit(scene.ours("depth"), picture, resolution=SIZE, weight=0.7, end=0.8, mode="prompt", basis="webui")
    units = scene.unit(scene.ours("canny"), picture, units, basis="steps", start=0.25, **canny)
    writer = scene.graph.add("ControlStackInfotextFromUnits", units=units)
    scene.apply(units)
    wanted = scene.draw(comfyui)
    text = comfyui.run(scene.graph)["outputs"][writer[0]]["text"][0]
    assert re.findall(r"Range Basis: (\w+)", text) == ["webui", "steps"]  # said, for no version of a program ends it
    read = Scene()
    infotext = f"a cat\nNegative prompt: a dog\nSteps: 4, {text}, Version: 1"
    read.apply(
        read.graph.add("ControlStackUnitsFromInfotext", infotext=infotext, image=read.picture(), hires_pass="all")
    )
    assert (read.draw(comfyui) == wanted).all()


TEXTS = {
    "a cat, Steps: 4": "has no ControlNet unit",
    'ControlNet 0: "Module: none, Model: cany [0123abcd]"': "'cany' is not in the controlnet folder; there is: canny",
    'ControlNet 0: "Module: canny, Model: canny, Pixel Perfect: True"': "connect a latent",
    'ControlNet 0: "Module: none, Model: canny, Weight: 30"': "weight is 30, expected -10 to 10",
}


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_that_cannot_act_is_refused(comfyui: Host, text: str) -> None:
    scene = Scene()
    scene.apply(
        scene.graph.add("ControlStackUnitsFromInfotext", infotext=text, image=scene.picture(), hires_pass="all")
    )
    with pytest.raises(RunError, match=TEXTS[text]):
        scene.draw(comfyui)


def test_a_unit_that_fails_leaves_nothing_behind(comfyui: Host) -> None:
    before, uncontrolled = controlled(comfyui), plain(comfyui)
    scene = Scene()
    units = scene.unit(scene.ours("canny"), scene.picture())
    scene.apply(scene.unit(scene.graph.add("TestUnknown", needs_vae=False, fails_at=3), scene.picture(), units))
    with pytest.raises(RunError, match="a unit that fails"):
        scene.draw(comfyui)
    assert (controlled(comfyui) == before).all()
    assert (plain(comfyui) == uncontrolled).all()


def error_of(host: Host, scene: Scene) -> str | None:
    """What a run ends with, if it does not end well."""
    try:
        scene.draw(host)
    except RunError as error:
        return str(error)
    return None


def test_interrupts_at_any_time_leave_nothing_behind(comfyui: Host) -> None:
    before, uncontrolled = controlled(comfyui), plain(comfyui)
    chance, stopped = random.Random(0), 0
    for turn in range(10):
        scene = Scene(steps=40)
        units = scene.unit(scene.ours("canny"), scene.picture(turn))
        scene.apply(scene.unit(scene.theirs("depth"), scene.picture(turn), units))
        timer = Timer(chance.uniform(0.0, 1.5), comfyui.interrupt)
        timer.start()
        said = error_of(comfyui, scene)
        timer.join()
        assert said is None or "interrupted" in said
        stopped += said is not None
        assert (controlled(comfyui) == before).all(), turn
        assert (plain(comfyui) == uncontrolled).all(), turn
    assert stopped >= 3


def test_context_windows_take_their_own_hints(comfyui: Host) -> None:
    """Of eight frames in windows of four, a hint that changes for the last frame changes that frame alone."""

    def frames(last: int) -> Tensor:
        scene = Scene(batch=8, cfg=1.0)
        first, second = scene.picture(1, 7), scene.picture(last, 1)
        hints = scene.graph.add("ImageBatch", image1=first, image2=second)
        scene.apply(scene.unit(scene.ours("canny"), hints))
        windows = {**comfyui.defaults("ContextWindowsManual"), "context_length": 4, "context_overlap": 0, "dim": 0}
        plain_windows = {"context_schedule": "standard_static", "fuse_method": "flat", "freenoise": False}
        scene.model = scene.graph.add("ContextWindowsManual", model=scene.model, **{**windows, **plain_windows})
        return scene.draw(comfyui)

    one, other = frames(2), frames(3)
    assert (one[:7] == other[:7]).all()
    assert difference(one[7:], other[7:]) > 0.01


def test_a_tile_reads_its_part_of_every_hint(comfyui: Host) -> None:
    """As in tiled upscalers: the tile of a large hint is the same as that part given alone."""

    def tiled(cut: bool) -> Tensor:
        scene = Scene()
        picture, mask = scene.picture(size=2 * SIZE), None
        if not cut:
            picture = scene.graph.add("ImageCrop", image=picture, width=SIZE, height=SIZE, x=64, y=SIZE)
        scene.apply(scene.unit(scene.ours("canny"), picture))
        if cut:
            place = {"top": SIZE, "left": 64, "size": SIZE, "canvas": 2 * SIZE}
            positive = scene.graph.add("TestTile", prompt=scene.positive, **place)
            negative = scene.graph.add("TestTile", prompt=scene.negative, **place)
            scene.positive, scene.negative = positive, negative
        assert mask is None
        return scene.draw(comfyui)

    assert difference(tiled(cut=True), tiled(cut=False)) <= TOLERANCE


@pytest.mark.parametrize("how", ["half", "none", "dynamic"])
def test_weights_may_be_streamed(comfyui: Host, how: str) -> None:
    """Layer by layer through the host's own casting: with half of them loaded, none, or by newer hosts' patcher."""
    if how == "dynamic" and not comfyui.has("TestTwoDevices"):
        pytest.skip("this ComfyUI has no dynamic patcher")
    scene = Scene()
    control = scene.graph.add("TestPartialLoad", control_net=scene.ours("canny"), how=how)
    scene.apply(scene.unit(control, scene.picture()))
    assert (scene.draw(comfyui) == controlled(comfyui)).all()


def test_memory_does_not_grow(comfyui: Host) -> None:
    def runs(count: int, offset: int) -> None:
        for k in range(offset, offset + count):
            scene = Scene(steps=1)
            units = None
            for file in SD_FILES[: 1 + k % 3]:
                units = scene.unit(scene.ours(file), scene.picture(k), units, weight=0.5 + k / 100)
            assert units is not None
            scene.apply(units)
            scene.draw(comfyui)

    runs(15, 0)
    before = comfyui.memory()
    runs(50, 15)
    assert comfyui.memory() - before < 60 * 2**20


def nested(given: dict[str, Any]) -> Iterator[str]:
    """What a choice brings with it, as the page looks for its words."""
    for name, (_, options) in given.items():
        for choice in options.get("options", ()) if isinstance(options.get("options"), list) else ():
            if isinstance(choice, dict):
                parts = choice["inputs"].values()
                yield from (f"{name}_{own}" for part in parts for own in part)


def test_words_are_there_in_every_language(comfyui: Host) -> None:
    """What the English file says is what the nodes say; the Chinese one leaves nothing out; each node has a page."""
    nodes = {name: node for name, node in comfyui.get("object_info").items() if name.startswith("ControlStack")}
    words = {lang: json.loads((ROOT / "locales" / lang / "nodeDefs.json").read_text("utf-8")) for lang in ("en", "zh")}
    assert set(words["en"]) == set(words["zh"]) == set(nodes)
    for name, node in nodes.items():
        given = {**node["input"].get("required", {}), **node["input"].get("optional", {})}
        said = words["en"][name]
        assert (said["display_name"], said["description"]) == (node["display_name"], node["description"])
        told = {key: value["tooltip"] for key, value in said["inputs"].items() if "tooltip" in value}
        assert set(said["inputs"]) == set(given)
        assert set(given) - set(told) <= {"preprocessor"}  # it tells what this machine lacks, which no file can
        assert told == {key: given[key][1]["tooltip"] for key in told}
        assert [each["tooltip"] for each in said["outputs"].values()] == node["output_tooltips"]
        shown = set(given) | set(nested(given))
        assert shown <= set(words["zh"][name]["inputs"]) <= shown | {"shape_curve"}  # which newer hosts have
        assert len(words["zh"][name]["outputs"]) == len(node["output"])
        assert (ROOT / "web" / "docs" / f"{name}.md").is_file()
    assert "ControlStackControlUnit" in comfyui.get("i18n")["zh"]["nodeDefs"]


def test_what_a_preprocessor_does_not_read_is_said(comfyui: Host) -> None:
    scene = Scene()
    scene.apply(scene.unit(scene.ours("canny"), scene.picture(), resolution=264))
    scene.draw(comfyui)
    assert "none works at the picture's own size, so resolution=264 changes nothing" in comfyui.log.read_text()


def test_what_is_wrong_with_a_unit_of_a_chain_is_said_once_before_the_run(comfyui: Host) -> None:
    scene = Scene()
    first = scene.unit(scene.ours("canny"), scene.picture(), start=0.8, end=0.2)
    scene.apply(scene.unit(scene.ours("depth"), scene.picture(1), first))
    with pytest.raises(RunError) as caught:
        scene.draw(comfyui)
    told = json.loads(str(caught.value))["node_errors"]
    said = [each["details"] for node in told.values() for each in node["errors"]]
    assert said == ["the range starts at 0.8, after its end 0.2: swap them"]
