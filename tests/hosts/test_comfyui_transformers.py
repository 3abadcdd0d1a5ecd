"""Units on the host's transformers, with controls of the host's own kinds: equal to its own nodes, and masked."""

from __future__ import annotations

from typing import Any

import pytest
from comfyui_host import Host, Link, RunError, output
from comfyui_scene import SIZE, Scene, difference
from torch import Tensor

KINDS = ("Flux", "Qwen")


def scene_of(kind: str, **settings: Any) -> Scene:
    scene = Scene(cfg=2.0, steps=2, **settings)
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


@pytest.mark.parametrize("kind", KINDS)
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


@pytest.mark.parametrize("kind", KINDS)
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
