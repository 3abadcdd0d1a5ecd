"""References in a real ComfyUI, against the same change in two passes by hooks of the test pack."""

from __future__ import annotations

from typing import Any

import pytest
from comfyui_host import Host, Link, RunError, output
from comfyui_scene import SIZE, STEPS, Scene, difference
from controlstack.models.kinds.references import REFERENCES
from torch import Tensor

TOLERANCE = 1e-5  # of the latents' range
BOTH = REFERENCES[-1]


def reference(scene: Scene, kind: str) -> Link:
    return scene.graph.add("ControlStackLoadControlModel", name=kind, model=scene.model)


def ours(host: Host, kind: str, settings: dict[str, Any] | None = None, **own: Any) -> Tensor:
    scene = Scene(**(settings or {}))
    mask = {"mask": scene.graph.add("TestMask", share=own.pop("share"), size=SIZE)} if "share" in own else {}
    scene.apply(scene.unit(reference(scene, kind), scene.picture(), **mask, **own), vae=scene.vae())
    return scene.draw(host)


def by_hand(host: Host, kind: str, settings: dict[str, Any] | None = None, **how: Any) -> Tensor:
    scene = Scene(**(settings or {}))
    given = {"kind": kind, "image": scene.picture(), "vae": scene.vae(), **how}
    scene.model = scene.graph.add("TestReference", model=scene.model, **given)
    return scene.draw(host)


@pytest.mark.parametrize("kind", REFERENCES)
@pytest.mark.parametrize("base", ["SD", "SDXL"])
def test_each_equals_its_formula(comfyui: Host, base: str, kind: str) -> None:
    settings = {"kind": base, "batch": 2}
    before, fidelity = Scene(**settings).draw(comfyui), 0.5**3 if base == "SDXL" else 0.5
    wanted = by_hand(comfyui, kind, settings, uncond=1 - fidelity)
    assert difference(wanted, before) > 0.005, "the change does not matter"
    assert difference(ours(comfyui, kind, settings), wanted) <= TOLERANCE
    assert (Scene(**settings).draw(comfyui) == before).all()


@pytest.mark.parametrize("fidelity", [0.0, 1.0])
def test_style_fidelity_is_for_the_negative_prompt(comfyui: Host, fidelity: float) -> None:
    found = ours(comfyui, BOTH, options=f"fidelity={fidelity}")
    assert difference(found, by_hand(comfyui, BOTH, uncond=1 - fidelity)) <= TOLERANCE
    assert difference(found, ours(comfyui, BOTH)) > 0.001
    if fidelity == 1:
        assert difference(ours(comfyui, BOTH, mode="control"), found) <= TOLERANCE


def test_weight_range_and_mask_are_kept(comfyui: Host) -> None:
    said = {"weight": 0.7, "basis": "steps", "start": 1 / STEPS, "share": 0.5}
    wanted = by_hand(comfyui, BOTH, weight=0.7, first=1, share=0.5, uncond=0.5)
    assert difference(ours(comfyui, BOTH, **said), wanted) <= TOLERANCE
    assert difference(wanted, ours(comfyui, BOTH)) > 0.001


def test_beside_a_control_of_ours_two_references_and_the_hosts_own(comfyui: Host) -> None:
    def drawn(order: tuple[str, ...]) -> Tensor:
        scene = Scene()
        scene.apply_theirs(scene.theirs("depth"), scene.picture(1), 0.5)
        controls = {"canny": scene.ours("canny"), **{kind: reference(scene, kind) for kind in REFERENCES[:2]}}
        units = None
        for name in order:
            units = scene.unit(controls[name], scene.picture(2), units, weight=0.6)
        assert units is not None
        scene.apply(units, vae=scene.vae())
        return scene.draw(comfyui)

    one, other = drawn(("canny", *REFERENCES[:2])), drawn((*REFERENCES[:2], "canny"))
    assert difference(one, other) <= TOLERANCE
    assert difference(one, drawn(("canny",))) > 0.001


@pytest.mark.parametrize("how", ["raise", "interrupt"])
def test_a_run_that_fails_leaves_nothing_behind(comfyui: Host, how: str) -> None:
    before = Scene().draw(comfyui)
    scene = Scene()
    scene.apply(scene.unit(reference(scene, BOTH), scene.picture()), vae=scene.vae())
    scene.model = scene.graph.add("TestFailure", model=scene.model, how=how, call=2, token=7)
    with pytest.raises(RunError, match=r"interrupted|asked for"):
        scene.draw(comfyui)
    assert (Scene().draw(comfyui) == before).all()


def test_the_report_says_what_it_costs(comfyui: Host) -> None:
    scene = Scene()
    scene.apply(scene.unit(reference(scene, BOTH), scene.picture(), basis="steps", end=0.5), vae=scene.vae())
    report = scene.graph.add("ControlStackReport", positive=scene.positive, latent=scene.sample())
    said = comfyui.run(scene.graph)["outputs"][report[0]]["text"][0]
    assert f"{BOTH}: fires on {STEPS // 2} of {STEPS} steps, each with 1 more evaluation of the base model" in said


def test_the_hosts_own_apply_node_takes_it(comfyui: Host) -> None:
    scene = Scene()
    given = {"image": scene.picture(), "vae": scene.vae(), "strength": 1.0, "start_percent": 0.0, "end_percent": 1.0}
    prompts = {"positive": scene.positive, "negative": scene.negative}
    made = scene.graph.add("ControlNetApplyAdvanced", control_net=reference(scene, BOTH), **prompts, **given)
    scene.positive, scene.negative = made, output(made, 1)
    assert difference(scene.draw(comfyui), ours(comfyui, BOTH)) <= TOLERANCE


def test_it_comes_from_a_webuis_text(comfyui: Host) -> None:
    scene = Scene()
    text = f'ControlNet 0: "Module: {BOTH}, Model: None, Weight: 0.8, Threshold A: 0.25, Range Basis: noise"'
    given = {"infotext": text, "hires_pass": "all", "image": scene.picture(), "model": scene.model}
    scene.apply(scene.graph.add("ControlStackUnitsFromInfotext", **given), vae=scene.vae())
    assert difference(scene.draw(comfyui), ours(comfyui, BOTH, weight=0.8, options="fidelity=0.25")) <= TOLERANCE


def test_what_it_lacks_is_said_before_the_run(comfyui: Host) -> None:
    scene = Scene()
    scene.apply(scene.unit(scene.ours("canny"), scene.picture(), scene.unit(reference(scene, BOTH), scene.picture())))
    with pytest.raises(RunError, match=rf"'{BOTH.replace('+', '.')}' reads hints as latents and needs a VAE: connect"):
        scene.draw(comfyui)
    other = Scene()
    loaded = other.graph.add("ControlStackLoadControlModel", name=BOTH)
    other.apply(other.unit(loaded, other.picture()), vae=other.vae())
    with pytest.raises(RunError, match="has no file and acts on the base model alone: connect the model"):
        other.draw(comfyui)
    third, sd = Scene(kind="SDXL"), Scene()
    loaded = third.graph.add(
        "ControlStackLoadControlModel", name=BOTH, model=third.graph.add("TestModel", kind=sd.kind, seed=0)
    )
    third.apply(third.unit(loaded, third.picture()), vae=third.vae())
    with pytest.raises(RunError, match="which the loaded one does not have"):
        third.draw(comfyui)
