"""Every way of acting on a base network, in a real AUTOMATIC1111 WebUI and in the programs of Forge's family.

Each evaluation is compared with our core on diffusers' U-Net with the same weights, where the tests of `tests/effects`
compare it with formulas written by hand.
"""

from __future__ import annotations

import base64
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import webui_world
from safetensors.torch import save_file
from webui_effects import A1111, FAMILIES, HIRES, POINTS, STEPS, TOLERANCE, basis_of, check, draw, same, started
from webui_host import Drawing, Host, RequestError
from webui_oracle import Oracle, Place, Wanted
from webui_units import HALF, SIZE, photograph, unit


@pytest.fixture(scope="module")
def models(every_models: Path) -> Path:
    return every_models


@pytest.fixture(scope="module")
def name(every_name: str) -> str:
    return every_name


@pytest.fixture(scope="module")
def host(every_host: Host) -> Host:
    return every_host


@pytest.fixture(scope="module")
def oracle(every_oracle: Oracle) -> Oracle:
    return every_oracle


@pytest.fixture(scope="module")
def plain(every_plain: Drawing) -> Drawing:
    return every_plain


@pytest.mark.parametrize("kind", [*FAMILIES, *POINTS])
def test_each_equals_the_core_outside_the_host(host: Host, oracle: Oracle, plain: Drawing, kind: str) -> None:
    wanted = unit(file=kind)
    check(draw(host, wanted), oracle, wanted)
    assert same(draw(host), plain)
    assert host.count()["hooks"] == 0


@pytest.mark.parametrize("settings", [{}, {"delta_strength": 0.3}, {"options": {"normalisation": "paper"}}])
def test_controlnext(host: Host, oracle: Oracle, plain: Drawing, settings: dict[str, Any]) -> None:
    wanted = unit(file="next", weight=0.4, **settings)
    check(draw(host, wanted, batch_size=2), oracle, wanted)
    assert same(draw(host), plain)


@pytest.mark.parametrize(
    ("file", "module"),
    [("adapter", "ip-adapter_clip_h"), ("style", "t2ia_style_clipvision"), ("style", "ip-adapter-auto")],
)
def test_what_an_encoder_sees(host: Host, oracle: Oracle, plain: Drawing, file: str, module: str) -> None:
    """An IP-Adapter and a style adapter, from a picture."""
    wanted = unit(file=file, module=module, weight=0.8)
    check(draw(host, wanted, batch_size=2), oracle, wanted)
    assert same(draw(host), plain)
    assert host.count()["hooks"] == 0


@pytest.mark.parametrize("how", ["pictures", "embeddings"])
def test_several_pictures_are_their_mean(host: Host, oracle: Oracle, plain: Drawing, how: str) -> None:
    """As sd-webui-controlnet averages their tokens; `ipadapter_input` is what its preprocessors make of them."""
    pictures = np.stack([photograph(0), photograph(1)])
    asked = Wanted(
        file="adapter", hints={False: pictures, True: pictures}, settings={"module": "ip-adapter_clip_h", "weight": 0.8}
    )
    wanted = replace(asked, settings={**asked.settings, "options": {"pictures": "mean"}})
    if how == "embeddings":
        seen = oracle.seen(pictures, oracle.model("adapter"))
        sent = {"image": None, "ipadapter_input": [saved({"image_embeds": each}) for each in seen]}
        asked = replace(asked, settings={**asked.settings, **sent})
    check(draw(host, asked, batch_size=2), oracle, wanted)
    assert same(draw(host), plain)


def saved(value: object) -> str:
    """Base64 text of what torch.save writes."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return base64.b64encode(buffer.getvalue()).decode()


def test_control_lora(host: Host, oracle: Oracle, models: Path, plain: Drawing, name: str) -> None:
    """Over the checkpoint, and over the one of a second pass."""
    wanted = unit(file="clora", weight=0.8)
    check(draw(host, wanted, batch_size=2), oracle, wanted)
    other = Oracle(models, webui_world.OTHER, basis_of(name))
    drawing = draw(host, wanted, **HIRES, hr_checkpoint_name=webui_world.OTHER)
    for number, seen in enumerate(drawing.evaluations):
        answer = (other if seen.hires else oracle).answer(seen, (wanted,), Place(number % STEPS, 0, STEPS))
        assert (seen.out - answer).abs().max() <= TOLERANCE * answer.abs().max(), number
    assert same(draw(host), plain)


UNIONS: dict[str, tuple[dict[str, Any], str]] = {  # what is said of a kind, and what the model is told
    "by a client": ({"union_control_type": "Depth"}, "depth"),
    "not at all": ({}, "auto"),
    "two in one pass": ({"options": {"union_control_type": "depth+tile:0.5"}}, "depth+tile:0.5"),
}


@pytest.mark.parametrize("how", UNIONS)
def test_union(host: Host, oracle: Oracle, plain: Drawing, how: str) -> None:
    said, told = UNIONS[how]
    wanted = unit(file="union_sd", weight=0.8, **said)
    expected = replace(wanted, settings={**wanted.settings, "options": {"union_control_type": told}})
    check(draw(host, wanted, batch_size=2), oracle, expected)
    assert same(draw(host), plain)


KEPT: dict[str, dict[str, Any]] = {
    "weight": {"weight": 0.7},
    "block weights": {"advanced_weighting": [0.3]},
    "cond rows": {"control_mode": "ControlNet is more important"},
    "range": {"guidance_start": 0.2, "guidance_end": 0.9, "range_basis": "steps"},
    "everything": {
        "control_mode": "ControlNet is more important", "weight": 1.3, "guidance_start": 0.2, "range_basis": "steps",
    },
}  # fmt: skip


@pytest.mark.parametrize("how", KEPT)
@pytest.mark.parametrize("kind", [kind for kind in (*FAMILIES, "middle", "heads") if kind != "delta"])
def test_what_a_unit_promises_holds(host: Host, oracle: Oracle, kind: str, how: str) -> None:
    settings = KEPT[how]
    wanted = (unit(file=kind, **settings),)
    check(draw(host, *wanted, batch_size=2), oracle, *wanted)


@pytest.mark.parametrize("kind", ["cross-normed", "query tap", "cross out", "again", "middle", "decoder", "heads"])
def test_masks_reach_maps_and_tokens(host: Host, oracle: Oracle, kind: str) -> None:
    wanted = replace(unit(file=kind), mask=HALF)
    check(draw(host, wanted), oracle, wanted)


def test_what_a_mask_cannot_reach_is_said(host: Host, plain: Drawing) -> None:
    with pytest.raises(RequestError, match="no map of the picture"):
        draw(host, replace(unit(file="prompt keys"), mask=HALF))
    assert same(draw(host), plain)


def test_hints_that_are_latents(host: Host, plain: Drawing) -> None:
    one, other = (draw(host, unit(seed, "latents"), **HIRES) for seed in (0, 1))
    assert same(draw(host, unit(0, "latents"), **HIRES), one) and not same(other, one)
    assert same(draw(host), plain)


def test_a_ctrlora_sees_the_hints_latents(host: Host, oracle: Oracle, plain: Drawing) -> None:
    wanted = unit(file="ctrlora_canny", weight=0.8)
    check(draw(host, wanted, batch_size=2), oracle, wanted)
    assert same(draw(host), plain)


TOGETHER = {
    "all": [*FAMILIES, "canny", "t2i", "middle"],
    "a shift sees the tensor at its point": ["stream", "t2i"],
    "behind the middle": ["canny", "middle"],
    "in a skip": ["canny", "skip"],
    "twice": ["query tap", "query tap"],
}


@pytest.mark.parametrize("which", TOGETHER)
def test_several_at_once(host: Host, oracle: Oracle, plain: Drawing, which: str) -> None:
    wanted = [unit(seed, file, weight=0.6) for seed, file in enumerate(TOGETHER[which])]
    check(draw(host, *wanted), oracle, *wanted)
    assert same(draw(host), plain)


@pytest.mark.parametrize("kind", FAMILIES)
def test_both_passes_and_one_of_them(host: Host, oracle: Oracle, kind: str) -> None:
    both, second = unit(file=kind), unit(file=kind, hr_option="High res only")
    check(draw(host, both, **HIRES), oracle, both)
    check(draw(host, second, **HIRES), oracle, second)


@pytest.mark.parametrize("when", ["refiner", "hires"])
@pytest.mark.parametrize("kind", ["delta", "middle", "again"])
def test_another_checkpoint_gets_it_too(
    host: Host, oracle: Oracle, models: Path, plain: Drawing, name: str, kind: str, when: str
) -> None:
    other = Oracle(models, webui_world.OTHER, basis_of(name))
    wanted, steps = unit(file=kind), 4
    refiner = {"refiner_checkpoint": webui_world.OTHER, "refiner_switch_at": 0.5}
    hires = {**HIRES, "hr_checkpoint_name": webui_world.OTHER}
    drawing = draw(host, wanted, steps=steps, **(refiner if when == "refiner" else hires))
    assert len(drawing.evaluations) == (steps if when == "refiner" else 2 * steps)
    for number, seen in enumerate(drawing.evaluations):
        judge = other if (seen.hires if when == "hires" else number >= 2) else oracle
        answer = judge.answer(seen, (wanted,), Place(number % steps, 0, steps))
        assert (seen.out - answer).abs().max() <= TOLERANCE * answer.abs().max(), number
    assert same(draw(host), plain)


@pytest.mark.parametrize("how", ["raise", "interrupt"])
@pytest.mark.parametrize("kind", [*FAMILIES, "middle"])
def test_a_run_that_ends_early_leaves_nothing_behind(host: Host, plain: Drawing, kind: str, how: str) -> None:
    asked = unit(file=kind)
    host.post(f"test/set?how={how}&call=2")
    body: dict[str, Any] = {"steps": 6, "width": SIZE, "height": SIZE, "sampler_name": "Euler a", "prompt": "a cat"}
    body["alwayson_scripts"] = {"ControlNet": {"args": [asked.request]}}
    if how == "raise":
        with pytest.raises(RequestError, match="the test asked for a failure"):
            host.post("sdapi/v1/txt2img", body)
    else:
        host.post("sdapi/v1/txt2img", body)
    assert host.count()["hooks"] == 0 and host.count()["controls"] == 0
    assert same(draw(host), plain)


@pytest.mark.parametrize("kind", FAMILIES)
def test_weight_0_changes_no_bit(host: Host, plain: Drawing, kind: str) -> None:
    assert same(draw(host, unit(file=kind, weight=0)), plain)


TILED = {"MultiDiffusion": 1, "Mixture of Diffusers": 4}  # of Forge, and how many tiles at once
WHOLE, TILE, STEP = 128, 64, 32  # pixels


@pytest.mark.parametrize("method", TILED)
@pytest.mark.parametrize("kind", [*FAMILIES, "middle"])
def test_tiles_see_their_part(host: Host, oracle: Oracle, name: str, kind: str, method: str) -> None:
    if name != "FORGE":
        pytest.skip("only Forge has an own tiled drawing that works with controls")
    hint = photograph(0, WHOLE)
    wanted = Wanted(file=kind, hints={False: hint, True: hint})
    script = {"MultiDiffusion Integrated": [True, method, TILE, TILE, STEP, TILED[method]]}
    drawing = draw(host, wanted, width=WHOLE, height=WHOLE, scripts=script)
    places = [(y, x) for y in range(0, WHOLE - TILE + 1, STEP) for x in range(0, WHOLE - TILE + 1, STEP)]
    batches = drawing.evaluations
    number = 0
    for seen in batches:
        pieces = seen.x.chunk(len(seen.x) // 2)
        answers = []
        for index in range(len(pieces)):
            y, x = places[number % len(places)]
            number += 1
            cut = slice(2 * index, 2 * index + 2)
            shown = replace(
                seen, x=seen.x[cut], time=seen.time[cut], context=seen.context[cut], out=seen.out[cut],
                cond=seen.cond[:2] if len(pieces) == 1 else cond_of(seen),
            )  # fmt: skip
            part = hint[y : y + TILE, x : x + TILE]
            step = (number - 1) // len(places)
            answers.append(oracle.answer(shown, (replace(wanted, hints={False: part}),), Place(step, 0, STEPS)))
        answer = torch.cat(answers)
        assert (seen.out - answer).abs().max() <= TOLERANCE * answer.abs().max()
    assert number == STEPS * len(places)


def cond_of(seen: Any) -> tuple[bool, ...]:
    """Of one tile: the program's list of kinds is the same for each."""
    return seen.cond[: len(seen.cond) // 2][:1] + seen.cond[-1:]


@pytest.mark.parametrize("flags", [("--lowvram",), ("--medvram",)])
def test_little_memory_draws_the_same(models: Path, tmp_path: Path, flags: tuple[str, ...]) -> None:
    oracle = Oracle(models)
    with started(A1111, tmp_path / "data", models, *flags) as host:
        plain = draw(host)
        for kind in FAMILIES:
            wanted = unit(file=kind)
            check(draw(host, wanted), oracle, wanted)
        assert not same(draw(host, unit(file="latents")), plain)
        assert same(draw(host), plain)


def test_units_stay_apart_from_prompts_networks(models: Path, tmp_path: Path) -> None:
    """LoRA keeps what it finds in a layer when it computes next, and puts that back later."""
    layer = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k"
    out, width = 4 * webui_world.WIDTH, webui_world.CONTEXT
    tensors = {f"{layer}.lora_up.weight": torch.randn(out, 2), f"{layer}.lora_down.weight": torch.randn(2, width)}
    (models / "Lora").mkdir(exist_ok=True)
    save_file(tensors, models / "Lora" / "extra.safetensors")
    with started(A1111, tmp_path / "data", models) as host:
        plain, prompted = draw(host), {"prompt": "a cat <lora:extra:1>"}
        both = draw(host, unit(file="delta"), **prompted)
        assert same(draw(host), plain)
        alone = draw(host, **prompted)
        assert not same(alone, plain) and not same(alone, both)
        assert same(draw(host, unit(file="delta"), **prompted), both)
        assert same(draw(host), plain)


def test_a_control_lora_follows_prompts_networks(models: Path, tmp_path: Path) -> None:
    """With a LoRA it is another control, and the old one again without it."""
    layer = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    width = webui_world.WIDTH
    tensors = {f"{layer}.lora_up.weight": torch.randn(width, 4), f"{layer}.lora_down.weight": torch.randn(4, width)}
    (models / "Lora").mkdir(exist_ok=True)
    save_file(tensors, models / "Lora" / "query.safetensors")
    oracle, wanted = Oracle(models), unit(file="clora")
    with started(A1111, tmp_path / "data", models) as host:
        before = draw(host, wanted)
        check(before, oracle, wanted)
        prompted = draw(host, wanted, prompt="a cat <lora:query:1>")
        oracle.add({"input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight": product(tensors, layer)})
        check(prompted, oracle, wanted)
        assert same(draw(host, wanted), before)


def product(tensors: dict[str, torch.Tensor], layer: str) -> torch.Tensor:
    return tensors[f"{layer}.lora_up.weight"] @ tensors[f"{layer}.lora_down.weight"]


def test_eight_bits_do_not_round_a_change(models: Path, tmp_path: Path) -> None:
    """The base model's own rounding is large; a delta beside it is as far off as the plain picture and no further."""
    oracle = Oracle(models)

    def error(*wanted: Wanted) -> float:
        seen = draw(host, *wanted).evaluations[0]
        answer = oracle.answer(seen, wanted, Place(0, 0, STEPS))
        return float((seen.out - answer).abs().max() / answer.abs().max())

    with started(A1111, tmp_path / "data", models) as host:
        host.post("sdapi/v1/options", {"fp8_storage": "Enable"})
        base = error()
        assert base > 0.02
        assert all(error(unit(file=kind)) <= 1.5 * base for kind in FAMILIES)


def test_the_list_of_scripts_answers(host: Host) -> None:
    found = host.get("sdapi/v1/script-info")
    assert any(each["name"] == "controlnet" and len(each["args"]) >= 3 for each in found)
