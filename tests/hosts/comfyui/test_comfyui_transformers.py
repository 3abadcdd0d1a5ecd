"""Units on the host's transformers, with controls of the host's own kinds: equal to its own nodes, and masked."""

from __future__ import annotations

from typing import Any

import pytest
from comfyui_host import Graph, Host, Link, RunError, output
from comfyui_scene import SIZE, Scene, difference
from torch import Tensor

KINDS = ("Flux", "Qwen", "SD3")
MASKED = ("Flux", "Qwen")  # whose controls read a mask, or whose tokens the tests look at


def scene_of(kind: str, **settings: Any) -> Scene:
    scene = Scene(cfg=2.0, steps=2, **settings)
    if kind == "SD3":
        scene.positive, scene.negative = (scene.graph.add("TestPrompt", seed=seed, pooled=2048) for seed in (1, 2))
    scene.model = scene.graph.add("TestTransformer", kind=kind, seed=0)
    scene.latent = scene.graph.add("EmptySD3LatentImage", width=SIZE, height=SIZE, batch_size=scene.batch)
    return scene


def control(scene: Scene, kind: str, **how: Any) -> Link:
    return scene.graph.add("TestTransformerControl", kind=kind, seed=1, **{"invents": False, **how})


def vae(scene: Scene, kind: str) -> Link:
    return scene.graph.add("TestTransformerVAE", kind=kind)


def ours(host: Host, kind: str, how: dict[str, Any] | None = None, share: float | None = None, **unit: Any) -> Tensor:
    """One unit. how: of its control; share: of the picture that its mask leaves."""
    scene = scene_of(kind)
    if share is not None:
        unit["mask"] = scene.graph.add("TestMask", share=share, size=SIZE)
    given = {"positive": scene.positive, "negative": scene.negative, "vae": vae(scene, kind)}
    units = scene.unit(control(scene, kind, **(how or {})), scene.picture(), **unit)
    made = scene.graph.add("ControlStackApplyControlUnits", units=units, **given)
    scene.positive, scene.negative = made, output(made, 1)
    return scene.draw(host)


def theirs(host: Host, kind: str, strength: float = 1.0, **how: Any) -> Tensor:
    scene = scene_of(kind)
    settings = {"strength": strength, "start_percent": 0.0, "end_percent": 1.0, "vae": vae(scene, kind)}
    given = {"positive": scene.positive, "negative": scene.negative, "image": scene.picture()}
    node = "ControlNetApplyAdvanced"
    if how.get("invents"):
        node, given["mask"] = "ControlNetInpaintingAliMamaApply", scene.graph.add("TestMask", share=0.3, size=SIZE)
    made = scene.graph.add(node, control_net=control(scene, kind, **how), **given, **settings)
    scene.positive, scene.negative = made, output(made, 1)
    return scene.draw(host)


@pytest.mark.parametrize("kind", KINDS)
def test_a_control_equals_the_hosts_own_node(comfyui: Host, kind: str) -> None:
    plain, wanted = scene_of(kind).draw(comfyui), theirs(comfyui, kind, 0.6)
    assert difference(wanted, plain) > 0.01
    assert (ours(comfyui, kind, weight=0.6) == wanted).all()


@pytest.mark.parametrize("kind", MASKED)
def test_a_strength_that_the_control_bends_is_bent(comfyui: Host, kind: str) -> None:
    wanted = theirs(comfyui, kind, 0.5, bent=True)
    assert (ours(comfyui, kind, {"bent": True}, weight=0.5) == wanted).all()
    assert difference(wanted, theirs(comfyui, kind, 0.5)) > 0.001


@pytest.mark.parametrize("kind", KINDS)
def test_a_mask_acts_on_tokens(comfyui: Host, kind: str) -> None:
    plain, full = scene_of(kind).draw(comfyui), ours(comfyui, kind)
    assert (ours(comfyui, kind, share=1.0) == full).all()
    assert (ours(comfyui, kind, share=0.0) == plain).all()
    some = ours(comfyui, kind, share=0.25)
    assert difference(some, plain) > 0.001
    assert difference(some, full) > 0.001
    change = (some - plain).abs().flatten(0, -2).mean(dim=0)
    assert change[:4].mean() > change[8:].mean()


@pytest.mark.parametrize("kind", MASKED)
def test_what_is_to_be_invented_reaches_the_control(comfyui: Host, kind: str) -> None:
    wanted = theirs(comfyui, kind, invents=True)

    def drawn(share: float | None) -> Tensor:
        scene = scene_of(kind)
        masked = {} if share is None else {"inpaint_mask": scene.graph.add("TestMask", share=share, size=SIZE)}
        units = scene.unit(control(scene, kind, invents=True), scene.picture(), **masked)
        given = {"positive": scene.positive, "negative": scene.negative, "vae": vae(scene, kind)}
        made = scene.graph.add("ControlStackApplyControlUnits", units=units, **given)
        scene.positive, scene.negative = made, output(made, 1)
        return scene.draw(comfyui)

    assert (drawn(0.3) == wanted).all()
    assert difference(drawn(None), wanted) > 0.001


def test_one_loader_reads_what_the_host_reads(comfyui: Host) -> None:
    """A file that is of none of our families: our loader gives out the host's control, and its name is the file's."""
    made = Graph()
    made.add("TestSaveControl", name="sd35", seed=1)
    comfyui.run(made)
    wanted, scene = scene_of("SD3"), scene_of("SD3")
    settings = {"strength": 0.7, "start_percent": 0.0, "end_percent": 1.0, "vae": vae(wanted, "SD3")}
    given = {"positive": wanted.positive, "negative": wanted.negative, "image": wanted.picture()}
    applied = wanted.graph.add("ControlNetApplyAdvanced", control_net=wanted.theirs("sd35"), **given, **settings)
    wanted.positive, wanted.negative = applied, output(applied, 1)
    given = {"positive": scene.positive, "negative": scene.negative, "vae": vae(scene, "SD3")}
    units = scene.unit(scene.ours("sd35"), scene.picture(), weight=0.7)
    applied = scene.graph.add("ControlStackApplyControlUnits", units=units, **given)
    scene.positive, scene.negative = applied, output(applied, 1)
    report = scene.graph.add("ControlStackReport", positive=scene.positive, latent=scene.sample())
    assert (comfyui.latent(scene.graph, report) == wanted.draw(comfyui)).all()
    (text,) = comfyui.run(scene.graph)["outputs"][report[0]]["text"]
    assert text.startswith("1. sd35: fires on 2 of 2 steps")


CONTROLS = {"canny": "ControlNet", "Flux": "ControlNetFlux", "Qwen": "QwenImageControlNetModel", "SD3": "Embedder",
            "Control-LoRA": "ControlLora"}  # fmt: skip
BASES = {"SD": "UNetModel", "Flux": "Flux", "Qwen": "QwenImageTransformer2DModel", "SD3": "OpenAISignatureMMDITWrapper"}
PAIRS = [
    (each, base) for each in CONTROLS for base in BASES if each != base and (base != "SD" or each in ("Flux", "Qwen"))
]


@pytest.mark.parametrize(("given", "base"), PAIRS)
def test_a_control_of_another_family_is_refused_by_both_names(comfyui: Host, given: str, base: str) -> None:
    scene = Scene(steps=2) if base == "SD" else scene_of(base)
    if given == "canny":
        made = scene.theirs("canny")
    else:
        made = scene.graph.add("TestControlLora") if given == "Control-LoRA" else control(scene, given)
    prompts = {"positive": scene.positive, "negative": scene.negative}
    applied = scene.graph.add(
        "ControlStackApplyControlUnits", units=scene.unit(made, scene.picture()), vae=vae(scene, "Flux"), **prompts
    )
    scene.positive, scene.negative = applied, output(applied, 1)
    with pytest.raises(RunError) as error:
        scene.draw(comfyui)
    said = str(error.value)
    assert BASES[base] in said or (base == "SD" and "SD" in said)
    assert "choose a" in said
    assert "unit 1" in said or "does not work beside" in said


def test_a_unit_that_does_not_fit_is_refused_before_the_sampler_where_the_model_is_connected(comfyui: Host) -> None:
    scene = scene_of("Flux")
    prompts = {"positive": scene.positive, "negative": scene.negative}
    units = scene.unit(scene.ours("canny"), scene.picture())
    applied = scene.graph.add("ControlStackApplyControlUnits", units=units, model=scene.model, **prompts)
    scene.positive, scene.negative = applied, output(applied, 1)
    with pytest.raises(RunError, match=r"^ControlStackApplyControlUnits: unit 1: 'canny' was trained for"):
        scene.draw(comfyui)


def test_a_control_for_other_latents_is_refused(comfyui: Host) -> None:
    for kind, base, words in (
        ("Flux", "Qwen", "reads latents of Flux, .*QwenImageTransformer2DModel. draws those of Wan21"),
        ("Qwen", "Flux", "reads latents of Wan21, .*draws those of Flux"),
    ):
        scene = scene_of(base)
        units = scene.unit(control(scene, kind), scene.picture())
        given = {"positive": scene.positive, "negative": scene.negative, "vae": vae(scene, kind)}
        made = scene.graph.add("ControlStackApplyControlUnits", units=units, **given)
        scene.positive, scene.negative = made, output(made, 1)
        with pytest.raises(RunError, match=words):
            scene.draw(comfyui)


@pytest.mark.parametrize("load", ["ours", "theirs"])
def test_a_control_of_a_u_net_is_refused_on_a_transformer(comfyui: Host, load: str) -> None:
    scene = scene_of("Flux")
    file = scene.ours("canny") if load == "ours" else scene.theirs("canny")
    scene.apply(scene.unit(file, scene.picture()))
    with pytest.raises(RunError, match=r"unit 1: '\w+' was trained for .*the loaded checkpoint is Flux"):
        scene.draw(comfyui)


def test_blocks_that_a_control_does_not_show_are_said_so(comfyui: Host) -> None:
    scene = scene_of("Flux")
    weights = scene.graph.add("ControlStackBlockWeights", **{"preset": "soft", "preset.base": 0.825})
    scene.apply(scene.unit(control(scene, "Flux"), scene.picture(), block_weights=weights))
    with pytest.raises(RunError, match="has blocks of an unknown kind: leave the mode at balanced"):
        scene.draw(comfyui)
