"""Revision in a real ComfyUI, against conditions that a node changes, and the host's own unCLIPConditioning."""

from __future__ import annotations

from typing import Any

import pytest
from comfyui_host import Host, Link, RunError
from comfyui_scene import STEPS, Scene, difference
from controlstack.models.kinds.revisions import IGNORE_PROMPT, REVISION, REVISIONS
from torch import Tensor

TOLERANCE = 1e-5  # of the latents' range
POOLED = 1280


def scene_of(**settings: Any) -> Scene:
    return Scene(kind="SDXL", **settings)


def seen(scene: Scene, seed: int = 4) -> Link:
    return scene.graph.add("TestEmbedding", seed=seed, seen=POOLED)


def revision(scene: Scene, kind: str = REVISION) -> Link:
    return scene.graph.add("ControlStackLoadControlModel", name=kind, model=scene.model)


def by_hand(scene: Scene, weight: float, silent: bool = False) -> None:
    """The picture for the positive prompt and zeros for the negative one."""
    given = {"embedding": seen(scene), "silent": silent}
    scene.positive = scene.graph.add("TestPooled", prompt=scene.positive, weight=weight, **given)
    scene.negative = scene.graph.add("TestPooled", prompt=scene.negative, weight=0.0, **given)


def ours(host: Host, kind: str = REVISION, batch: int = 1, **own: Any) -> Tensor:
    scene = scene_of(batch=batch)
    scene.apply(scene.unit(revision(scene, kind), None, embedding=seen(scene), **own))
    return scene.draw(host)


@pytest.mark.parametrize("kind", REVISIONS)
def test_it_equals_changed_conditions(comfyui: Host, kind: str) -> None:
    before, scene = scene_of(batch=2).draw(comfyui), scene_of(batch=2)
    by_hand(scene, 0.7, kind == IGNORE_PROMPT)
    wanted = scene.draw(comfyui)
    assert difference(wanted, before) > 0.001, "the change does not matter"
    assert difference(ours(comfyui, kind, batch=2, weight=0.7), wanted) <= TOLERANCE
    assert (scene_of(batch=2).draw(comfyui) == before).all()


def test_a_control_of_ours_reads_the_conditions_that_it_leaves(comfyui: Host) -> None:
    def drawn(hand: bool) -> Tensor:
        scene = scene_of()
        control = scene.unit(scene.ours("xl"), scene.picture(2), weight=0.6)
        if hand:
            by_hand(scene, 1.0, silent=True)
            scene.apply(control)
        else:
            scene.apply(scene.unit(revision(scene, IGNORE_PROMPT), None, control, embedding=seen(scene)))
        return scene.draw(comfyui)

    assert difference(drawn(hand=False), drawn(hand=True)) <= TOLERANCE


def test_two_applied_one_after_the_other_are_summed(comfyui: Host) -> None:
    scene = scene_of()
    for weight in (0.4, 0.3):
        scene.apply(scene.unit(revision(scene), None, embedding=seen(scene), weight=weight))
    assert difference(scene.draw(comfyui), ours(comfyui, weight=0.7)) <= TOLERANCE


def test_for_the_positive_prompt_alone_it_is_the_hosts_unclip(comfyui: Host) -> None:
    """Which adds the noise of its schedule's first step, 0.6 %, also without augmentation."""
    scene = scene_of()
    given = {"clip_vision_output": seen(scene), "strength": 0.8, "noise_augmentation": 0.0}
    scene.positive = scene.graph.add("unCLIPConditioning", conditioning=scene.positive, **given)
    theirs, own = scene.draw(comfyui), ours(comfyui, weight=0.8, mode="control")
    assert difference(own, theirs) < 0.05 * difference(theirs, scene_of().draw(comfyui))


def test_range_and_noise_are_kept(comfyui: Host) -> None:
    whole = ours(comfyui)
    late = ours(comfyui, basis="steps", start=(STEPS - 1) / STEPS)
    assert 0 < difference(late, scene_of().draw(comfyui)) < difference(whole, scene_of().draw(comfyui))
    assert difference(ours(comfyui, options="noise_augmentation=0.8"), whole) > TOLERANCE


@pytest.mark.parametrize("how", ["raise", "interrupt"])
def test_a_run_that_fails_leaves_nothing_behind(comfyui: Host, how: str) -> None:
    before, scene = scene_of().draw(comfyui), scene_of()
    scene.apply(scene.unit(revision(scene, IGNORE_PROMPT), None, embedding=seen(scene)))
    scene.model = scene.graph.add("TestFailure", model=scene.model, how=how, call=2, token=17)
    with pytest.raises(RunError, match=r"interrupted|asked for"):
        scene.draw(comfyui)
    assert (scene_of().draw(comfyui) == before).all()


def test_it_is_refused_where_it_cannot_act(comfyui: Host) -> None:
    scene = Scene()
    scene.apply(scene.unit(revision(scene), None, embedding=seen(scene)))
    with pytest.raises(RunError, match="vector condition of SDXL, and the loaded base model has none"):
        scene.draw(comfyui)
    scene = scene_of()
    other = scene.graph.add("TestEmbedding", seed=4, seen=1024)
    scene.apply(scene.unit(revision(scene), None, embedding=other))
    with pytest.raises(RunError, match=r"reads image embedding of CLIP ViT-bigG/14 \[N, T, 1280\]"):
        scene.draw(comfyui)
