"""Controls that the host applies to the model by a node of its own, weighed as a unit is weighed."""

from __future__ import annotations

from typing import Any

import pytest
from comfyui_host import Host, Link, RunError
from comfyui_scene import SIZE, Scene, difference
from torch import Tensor

TOLERANCE = 1e-5  # of the latents' range
STEPS = 4


@pytest.fixture(params=["Qwen", "Anima"])
def kind(request: pytest.FixtureRequest, comfyui: Host) -> str:
    if request.param == "Anima" and not comfyui.has("AnimaLLLiteApply"):
        pytest.skip("this host has no Anima")
    return request.param


def scene_of(kind: str = "Qwen") -> Scene:
    scene = Scene(cfg=2.0, steps=STEPS)
    scene.model = scene.graph.add("TestTransformer", kind=kind, seed=0)
    scene.latent = scene.graph.add("EmptySD3LatentImage", width=SIZE, height=SIZE, batch_size=1)
    return scene


def patched(scene: Scene, kind: str, strength: float = 1.0) -> Link:
    if kind == "Anima":
        said = {"strength": strength, "start_percent": 0.0, "end_percent": 1.0, "image": scene.picture()}
        patch = scene.graph.add("TestAnimaPatch")
        return scene.graph.add("AnimaLLLiteApply", model=scene.model, model_patch=patch, **said)
    given = {"model": scene.model, "model_patch": scene.graph.add("TestModelPatch"), "image": scene.picture()}
    vae = scene.graph.add("TestTransformerVAE", kind="Qwen")
    return scene.graph.add("QwenImageDiffsynthControlnet", **given, vae=vae, strength=strength)


def theirs(host: Host, kind: str, strength: float) -> Tensor:
    scene = scene_of(kind)
    scene.model = patched(scene, kind, strength)
    return scene.draw(host)


def ours(host: Host, kind: str, share: float | None = None, keyframes: str = "", **said: Any) -> Tensor:
    scene = scene_of(kind)
    if share is not None:
        said["mask"] = scene.graph.add("TestMask", share=share, size=SIZE)
    if keyframes:
        said["schedule"] = scene.graph.add("ControlStackSchedule", shape="keyframes", **{"shape.keyframes": keyframes})
    given = {"weight": 1.0, "start": 0.0, "end": 1.0, "basis": "steps", **said}
    scene.model = scene.graph.add("ControlStackPatchControl", model=scene.model, patched=patched(scene, kind), **given)
    return scene.draw(host)


def test_a_weight_is_that_of_its_own_node(comfyui: Host, kind: str) -> None:
    plain, wanted = scene_of(kind).draw(comfyui), theirs(comfyui, kind, 0.4)
    assert difference(wanted, plain) > 0.005
    assert difference(ours(comfyui, kind, weight=0.4), wanted) <= TOLERANCE
    assert (ours(comfyui, kind, weight=0.0) == plain).all()
    assert (scene_of(kind).draw(comfyui) == plain).all()


def test_a_range_and_a_curve_say_when(comfyui: Host, kind: str) -> None:
    """Against two samplers in turn, of which one has the patch."""
    scene = scene_of(kind)
    given = {"seed": 3, "cfg": 2.0, "steps": STEPS, "sampler_name": "euler", "scheduler": "normal"}
    given |= {"positive": scene.positive, "negative": scene.negative, "noise_seed": given.pop("seed")}
    half = {
        "start_at_step": 0,
        "end_at_step": STEPS // 2,
        "add_noise": "enable",
        "return_with_leftover_noise": "enable",
    }
    first = scene.graph.add("KSamplerAdvanced", model=scene.model, latent_image=scene.latent, **given, **half)
    rest = {"start_at_step": STEPS // 2, "end_at_step": STEPS, "add_noise": "disable"}
    rest["return_with_leftover_noise"] = "disable"
    wanted = comfyui.latent(
        scene.graph,
        scene.graph.add("KSamplerAdvanced", model=patched(scene, kind), latent_image=first, **given, **rest),
    )
    assert difference(ours(comfyui, kind, start=0.5), wanted) <= TOLERANCE
    assert difference(ours(comfyui, kind, keyframes="0 0 hold\n0.5 1 hold"), wanted) <= TOLERANCE
    assert difference(wanted, theirs(comfyui, kind, 1.0)) > 0.001


def test_a_mask_says_where(comfyui: Host, kind: str) -> None:
    plain, full = scene_of(kind).draw(comfyui), theirs(comfyui, kind, 1.0)
    assert (ours(comfyui, kind, share=0.0) == plain).all()
    assert difference(ours(comfyui, kind, share=1.0), full) <= TOLERANCE
    some = ours(comfyui, kind, share=0.25)
    change = (some - plain).abs().flatten(0, -2).mean(dim=0)
    assert change[:4].mean() > change[8:].mean()
    assert difference(some, full) > 0.001


def test_what_cannot_be_weighed_is_named(comfyui: Host) -> None:
    given = {"weight": 1.0, "start": 0.0, "end": 1.0, "basis": "steps"}
    scene = scene_of()
    other = scene.graph.add("TestElsewhere", model=scene.model)
    scene.model = scene.graph.add("ControlStackPatchControl", model=scene.model, patched=other, **given)
    with pytest.raises(RunError, match=r"\(post_input\) acts where no weight, range or mask can reach it"):
        scene.draw(comfyui)
    scene = scene_of()
    scene.model = scene.graph.add("ControlStackPatchControl", model=scene.model, patched=scene.model, **given)
    with pytest.raises(RunError, match="has no patch that the model lacks"):
        scene.draw(comfyui)
