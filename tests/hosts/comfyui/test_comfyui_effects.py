"""Each way of acting on the host's U-Net, against the same change made by hooks of the test pack on its modules."""

from __future__ import annotations

import re
from typing import Any

import pytest
from comfyui_host import Host, Link, RunError
from comfyui_scene import SIZE, STEPS, Scene, difference
from torch import Tensor

TOLERANCE = 1e-5  # of the latents' range
SD = (
    "cross-normed",
    "query tap",
    "cross out",
    "delta",
    "again",
    "middle",
    "skip",
    "onward",
    "decoder",
    "decoder query",
    "heads",
)
XL = ("cross-normed", "query tap", "cross out", "delta", "again", "deep query")
CASES = [*(("SD", kind) for kind in SD), *(("SDXL", kind) for kind in XL)]
SHIFTS = ("cross-normed", "query tap", "cross out", "again", "heads")


def family(scene: Scene, kind: str) -> Link:
    return scene.graph.add("TestFamily", model=scene.model, kind=kind)


def plain(host: Host, **settings: Any) -> Tensor:
    return Scene(**settings).draw(host)


def ours(host: Host, *kinds: str, settings: dict[str, Any] | None = None, **own: Any) -> Tensor:
    """One unit for each family, chained. settings: of the scene; own: of the units."""
    scene, units = Scene(**(settings or {})), None
    for kind in kinds:
        units = scene.unit(family(scene, kind), scene.picture(), units, **own)
    assert units is not None
    scene.apply(units)
    return scene.draw(host)


def by_hand(host: Host, kind: str, settings: dict[str, Any] | None = None, **how: Any) -> Tensor:
    scene = Scene(**(settings or {}))
    scene.model = scene.graph.add("TestByHand", model=scene.model, kind=kind, image=scene.picture(), **how)
    return scene.draw(host)


@pytest.mark.parametrize(("base", "kind"), CASES)
def test_each_equals_the_same_change_by_hand(comfyui: Host, base: str, kind: str) -> None:
    settings = {"kind": base}
    before, wanted = plain(comfyui, **settings), by_hand(comfyui, kind, settings)
    assert difference(wanted, before) > 0.005, "the change does not matter"
    assert difference(ours(comfyui, kind, settings=settings), wanted) <= TOLERANCE
    assert (plain(comfyui, **settings) == before).all()


def test_controlnext_and_its_companion(comfyui: Host) -> None:
    """The network's answer by hand; what its companion changes is a delta as any other."""
    before, wanted = plain(comfyui, batch=2), by_hand(comfyui, "next", {"batch": 2}, weight=0.6)

    def drawn(strength: float) -> Tensor:
        scene = Scene(batch=2)
        scene.apply(scene.unit(scene.ours("next"), scene.picture(), weight=0.6, delta_strength=strength))
        return scene.draw(comfyui)

    assert difference(wanted, before) > 0.005
    assert difference(drawn(0.0), wanted) <= TOLERANCE
    assert difference(drawn(1.0), wanted) > 0.001
    assert (plain(comfyui, batch=2) == before).all()


@pytest.mark.parametrize("again", [False, True])
def test_a_delta_on_weights_in_8_bits_is_not_rounded(comfyui: Host, again: bool) -> None:
    """It is added as the weights are cast, also in the base's second evaluation, and nothing of it stays."""
    stored, valued = {"kind": "SD in 8 bits"}, {"kind": "SD of 8 bits"}
    before = plain(comfyui, **stored)
    assert difference(before, plain(comfyui, **valued)) <= TOLERANCE
    kinds = ("delta", "again") if again else ("delta",)
    wanted = ours(comfyui, *kinds, settings=valued) if again else by_hand(comfyui, "delta", valued)
    assert difference(wanted, before) > 0.005
    assert difference(ours(comfyui, *kinds, settings=stored), wanted) <= TOLERANCE
    assert (plain(comfyui, **stored) == before).all()


@pytest.mark.parametrize("lora", [False, True])
def test_control_lora_equals_the_hosts_own_node(comfyui: Host, lora: bool) -> None:
    """Also over a base model that a LoRA has changed, and over the plain one again."""

    def scene_of(changed: bool) -> Scene:
        scene = Scene(batch=2)
        if changed:
            scene.model = scene.graph.add("TestChanged", model=scene.model, strength=0.7)
        return scene

    def ours(changed: bool) -> Tensor:
        scene = scene_of(changed)
        scene.apply(scene.unit(scene.ours("clora"), scene.picture(), weight=0.8))
        return scene.draw(comfyui)

    def theirs(changed: bool) -> Tensor:
        scene = scene_of(changed)
        scene.apply_theirs(scene.theirs("clora"), scene.picture(), 0.8)
        return scene.draw(comfyui)

    wanted = theirs(lora)
    assert difference(wanted, scene_of(lora).draw(comfyui)) > 0.005
    assert difference(ours(lora), wanted) <= TOLERANCE
    assert difference(ours(not lora), theirs(not lora)) <= TOLERANCE
    assert difference(ours(lora), theirs(not lora)) > 0.001


@pytest.mark.parametrize("kind", SHIFTS)
def test_weight_range_cond_rows_and_block_weights_are_kept(comfyui: Host, kind: str) -> None:
    settings = {"batch": 2}
    scene = Scene(**settings)
    weights = scene.graph.add("ControlStackBlockWeights", **{"preset": "custom", "preset.weights": "0.8"})
    how = {"weight": 0.9, "mode": "control", "basis": "steps", "start": 1 / STEPS, "block_weights": weights}
    scene.apply(scene.unit(family(scene, kind), scene.picture(), **how))
    wanted = by_hand(comfyui, kind, settings, weight=0.9 * 0.8, first=1, positive=True)
    assert difference(scene.draw(comfyui), wanted) <= TOLERANCE
    assert difference(wanted, plain(comfyui, **settings)) > 0.001


@pytest.mark.parametrize("kind", [*SHIFTS, "skip"])
def test_masks_reach_maps_and_tokens(comfyui: Host, kind: str) -> None:
    scene = Scene()
    mask = scene.graph.add("TestMask", share=0.5, size=SIZE)
    scene.apply(scene.unit(family(scene, kind), scene.picture(), mask=mask))
    wanted = by_hand(comfyui, kind, share=0.5)
    assert difference(scene.draw(comfyui), wanted) <= TOLERANCE
    assert difference(wanted, by_hand(comfyui, kind)) > 0.001


def test_a_curve_moves_a_shift(comfyui: Host) -> None:
    scene = Scene()
    keyframes = "0 0 hold\n0.5 0.4 hold"
    schedule = scene.graph.add("ControlStackSchedule", shape="keyframes", **{"shape.keyframes": keyframes})
    unit = {"basis": "steps", "schedule": schedule}
    scene.apply(scene.unit(family(scene, "query tap"), scene.picture(), **unit))
    wanted = by_hand(comfyui, "query tap", weight=0.4, first=STEPS // 2)
    assert difference(scene.draw(comfyui), wanted) <= TOLERANCE


def test_several_act_together_in_one_apply_node_or_two(comfyui: Host) -> None:
    """Also at one point, with tensors, and with a control of the host before or between them."""
    kinds = ("cross-normed", "query tap", "again", "cross-normed")

    def drawn(applies: int) -> Tensor:
        scene, units = Scene(), None
        scene.apply_theirs(scene.theirs("depth"), scene.picture(1), 0.5)
        for number, kind in enumerate(kinds):
            units = scene.unit(family(scene, kind), scene.picture(number), units, weight=0.5)
            if number == 1 and applies == 2:
                scene.apply(units)
                units = None
        assert units is not None
        scene.apply(units)
        return scene.draw(comfyui)

    assert difference(drawn(2), drawn(1)) <= TOLERANCE
    assert difference(drawn(1), ours(comfyui, *kinds, weight=0.5)) > 0.001


def test_a_delta_has_a_strength_once_for_all_units_and_nodes(comfyui: Host) -> None:
    wanted = by_hand(comfyui, "delta")
    scene = Scene()
    control = family(scene, "delta")
    scene.apply(scene.unit(control, scene.picture(), scene.unit(control, scene.picture(1))))
    scene.apply(scene.unit(control, scene.picture(2)))
    assert difference(scene.draw(comfyui), wanted) <= TOLERANCE


def test_a_delta_and_the_hosts_lora_hooks_add_up(comfyui: Host) -> None:
    """Prompts of which one alone is under control: each sees its own weights."""
    scene = Scene()
    negative = scene.negative
    scene.apply(scene.unit(family(scene, "delta"), scene.picture()))
    both = scene.draw(comfyui)
    half = Scene()
    half.apply(half.unit(family(half, "delta"), half.picture()))
    half.negative = negative
    found = half.draw(comfyui)
    assert difference(found, both) > 0.001
    assert difference(found, plain(comfyui)) > 0.001


def test_a_region_reads_its_part_of_the_hint(comfyui: Host) -> None:
    """A shift that is told to act on the right half does not see what the hint shows on the left."""

    def drawn(moved: bool) -> Tensor:
        scene = Scene(cfg=1.0)
        picture, half = scene.picture(), {"width": SIZE // 2, "height": SIZE, "y": 0}
        if moved:
            cut = scene.graph.add("ImageCrop", image=scene.picture(9), x=0, **half)
            paste = {"x": 0, "y": 0, "resize_source": False}
            picture = scene.graph.add("ImageCompositeMasked", destination=picture, source=cut, **paste)
        other = scene.graph.add("TestPrompt", seed=5)
        scene.apply(scene.unit(family(scene, "cross-normed"), picture))
        area = scene.graph.add("ConditioningSetArea", conditioning=scene.positive, strength=1.0, x=SIZE // 2, **half)
        rest = scene.graph.add("ConditioningSetArea", conditioning=other, strength=1.0, x=0, **half)
        scene.positive = scene.graph.add("ConditioningCombine", conditioning_1=area, conditioning_2=rest)
        return scene.draw(comfyui)

    assert (drawn(moved=True) == drawn(moved=False)).all()


@pytest.mark.parametrize("kind", ["skip", *SHIFTS])
def test_regions_in_one_call_are_as_in_calls_of_their_own(comfyui: Host, kind: str) -> None:
    """Prompts of one Apply node are computed together where their regions have one size, those of two are not."""

    def drawn(applies: int) -> Tensor:
        scene = Scene(cfg=1.0)
        unit, other = scene.unit(family(scene, kind), scene.picture()), scene.negative
        scene.apply(unit)
        again = scene.negative
        if applies == 2:
            again = scene.graph.add("ControlStackApplyControlUnits", positive=other, negative=other, units=unit)
        half = {"width": SIZE // 2, "height": SIZE, "y": 0, "strength": 1.0}
        left, right = (
            scene.graph.add("ConditioningSetArea", conditioning=each, x=x, **half)
            for each, x in ((scene.positive, 0), (again, SIZE // 2))
        )
        scene.positive = scene.graph.add("ConditioningCombine", conditioning_1=left, conditioning_2=right)
        return scene.draw(comfyui)

    assert difference(drawn(1), drawn(2)) <= TOLERANCE


@pytest.mark.parametrize("kind", ["cross-normed", "query tap", "cross out"])
def test_deep_shrink_and_merged_tokens_are_met(comfyui: Host, kind: str) -> None:
    def drawn(*kinds: str, mask: bool = False) -> Tensor:
        scene = Scene()
        how = {"mask": scene.graph.add("TestMask", share=0.5, size=SIZE)} if mask else {}
        for each in kinds:
            scene.apply(scene.unit(family(scene, each), scene.picture(), **how))
        places = {"block_number": 3, "downscale_factor": 2.0, "start_percent": 0.0, "end_percent": 1.0}
        how = {"downscale_method": "bicubic", "upscale_method": "bicubic", "downscale_after_skip": True}
        scene.model = scene.graph.add("PatchModelAddDownscale", model=scene.model, **places, **how)
        scene.model = scene.graph.add("TomePatchModel", model=scene.model, ratio=0.5)
        return scene.draw(comfyui)

    assert difference(drawn(kind), drawn()) > 0.001
    assert difference(drawn(kind, mask=True), drawn(kind)) > 0.001


@pytest.mark.parametrize("kind", ["cross-normed", "delta", "again"])
@pytest.mark.parametrize("how", ["raise", "interrupt"])
def test_a_run_that_fails_leaves_nothing_behind(comfyui: Host, kind: str, how: str) -> None:
    before, controlled = plain(comfyui), ours(comfyui, kind)
    scene = Scene()
    scene.apply(scene.unit(family(scene, kind), scene.picture()))
    scene.model = scene.graph.add("TestFailure", model=scene.model, how=how, call=2, token=len(kind))
    with pytest.raises(RunError, match=r"interrupted|asked for"):
        scene.draw(comfyui)
    assert (plain(comfyui) == before).all()
    assert (ours(comfyui, kind) == controlled).all()


FAULTS = {
    "wrong delta": r"unit 1|changes the weight 'input_blocks\.1\.0\.in_layers\.2\.weight' \[3, 3\]",
    "no attention": "acts at input block 0, attn1.q 0 of its base model, which the loaded one does not have",
    "last decoder": "acts at output block 11, stream 0 of its base model",
}


@pytest.mark.parametrize("kind", FAULTS)
def test_what_a_base_lacks_is_said_before_the_first_step(comfyui: Host, kind: str) -> None:
    before = plain(comfyui)
    with pytest.raises(RunError, match=FAULTS[kind]):
        ours(comfyui, kind)
    assert (plain(comfyui) == before).all()


def test_a_sampler_that_forgets_changes_of_weights_is_refused(comfyui: Host) -> None:
    scene = Scene()
    scene.apply(scene.unit(family(scene, "delta"), scene.picture()))
    scene.model = scene.graph.add("TestNoHooks", model=scene.model)
    with pytest.raises(RunError, match="'delta' changes weights of the base model, and this sampler does not apply"):
        scene.draw(comfyui)
    assert (plain(comfyui) == plain(comfyui, steps=STEPS)).all()


def test_latents_are_those_of_the_vae(comfyui: Host) -> None:
    reference, scene = Scene(), Scene()
    hand = {"kind": "latents", "image": reference.picture(), "vae": reference.vae()}
    reference.model = reference.graph.add("TestByHand", model=reference.model, **hand)
    scene.apply(scene.unit(family(scene, "latents"), scene.picture()), vae=scene.vae())
    wanted = reference.draw(comfyui)
    assert difference(wanted, plain(comfyui)) > 0.01
    assert difference(scene.draw(comfyui), wanted) <= TOLERANCE


def test_latents_need_a_vae(comfyui: Host) -> None:
    with pytest.raises(RunError, match=r"reads .*latents and needs a VAE: connect one to Apply Control Units"):
        ours(comfyui, "latents")


@pytest.mark.parametrize("control", [False, True])
def test_a_style_adapter_puts_its_tokens_beside_the_positive_prompt(comfyui: Host, control: bool) -> None:
    """Rows of the negative prompt read zeros there, as the same prompt with tokens of weight 0."""

    def drawn(hand: bool, weight: float = 0.6) -> Tensor:
        scene = Scene(batch=2)
        seen = scene.graph.add("TestEmbedding", seed=4)
        style = scene.ours("style")
        if control:
            scene.apply_theirs(scene.theirs("depth"), scene.picture(1), 0.5)
        if hand:
            given = {"style": style, "embedding": seen}
            scene.positive = scene.graph.add("TestStyled", prompt=scene.positive, weight=weight, **given)
            scene.negative = scene.graph.add("TestStyled", prompt=scene.negative, weight=0.0, **given)
        else:
            scene.apply(scene.unit(style, None, embedding=seen, weight=weight))
        return scene.draw(comfyui)

    if not control:
        assert difference(drawn(hand=False), drawn(hand=True)) <= TOLERANCE
        assert difference(drawn(hand=False), plain(comfyui, batch=2)) > 0.001
    assert difference(drawn(hand=False), drawn(hand=False, weight=0.2)) > 0.001


@pytest.mark.parametrize("mode", ["balanced", "control"])
def test_an_ip_adapter_attends_to_its_picture(comfyui: Host, mode: str) -> None:
    """Against the host's own way of replacing attention; rows of the negative prompt see no picture's tokens."""

    def drawn(hand: bool, weight: float = 0.8) -> Tensor:
        scene = Scene(batch=2)
        seen, adapter = scene.graph.add("TestEmbedding", seed=4), scene.ours("adapter")
        if hand:
            given = {"adapter": adapter, "embedding": seen, "weight": weight}
            scene.model = scene.graph.add("TestAdapted", model=scene.model, **given)
        else:
            scene.apply(scene.unit(adapter, None, embedding=seen, weight=weight, mode=mode))
        return scene.draw(comfyui)

    assert difference(drawn(hand=True), plain(comfyui, batch=2)) > 0.005
    if mode == "balanced":
        assert difference(drawn(hand=False), drawn(hand=True)) <= TOLERANCE
    else:
        assert difference(drawn(hand=False), drawn(hand=True)) > 0.001


def test_ip_adapters_of_others_and_ours_add_up(comfyui: Host) -> None:
    """Ours adds to what stands in place of an attention already."""

    def drawn(hand: float, own: float) -> Tensor:
        scene = Scene()
        seen, adapter = scene.graph.add("TestEmbedding", seed=4), scene.ours("adapter")
        if hand:
            given = {"adapter": adapter, "embedding": seen, "weight": hand}
            scene.model = scene.graph.add("TestAdapted", model=scene.model, **given)
        if own:
            scene.apply(scene.unit(adapter, None, embedding=seen, weight=own))
        return scene.draw(comfyui)

    assert difference(drawn(0.3, 0.5), drawn(0.8, 0)) <= TOLERANCE
    assert difference(drawn(0.3, 0), drawn(0.8, 0)) > 0.001


def test_a_picture_is_no_embedding_and_an_embedding_no_picture(comfyui: Host) -> None:
    scene = Scene()
    scene.apply(scene.unit(scene.ours("style"), scene.picture()))
    with pytest.raises(RunError, match=r"'style' reads last hidden states of CLIP ViT-L/14, and the preprocessor none"):
        scene.draw(comfyui)
    other = Scene()
    other.apply(other.unit(other.ours("canny"), None, embedding=other.graph.add("TestEmbedding", seed=4)))
    with pytest.raises(RunError, match="the unit has no image"):
        other.draw(comfyui)


@pytest.mark.parametrize("kind", ["cross-normed", "delta", "again"])
def test_two_devices_draw_what_one_draws(comfyui: Host, kind: str) -> None:
    if not comfyui.has("TestTwoDevices"):
        pytest.skip("this ComfyUI computes a step on one device")
    scene = Scene()
    scene.apply(scene.unit(family(scene, kind), scene.picture()))
    scene.model = scene.graph.add("TestTwoDevices", kind=scene.kind, seed=0)
    assert difference(scene.draw(comfyui), ours(comfyui, kind)) <= TOLERANCE


def test_the_report_counts_their_steps(comfyui: Host) -> None:
    scene = Scene()
    scene.apply(scene.unit(family(scene, "query tap"), scene.picture(), basis="steps", start=0.5))
    report = scene.graph.add("ControlStackReport", positive=scene.positive, latent=scene.sample())
    said = comfyui.run(scene.graph)["outputs"][report[0]]["text"][0]
    assert re.search(rf"query tap: fires on {STEPS // 2} of {STEPS} steps", said)
