"""ControlLLLite on a small Anima in a real Forge Neo: as its own ControlNet draws, and what a unit has beyond that."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from webui_host import Drawing, Host, RequestError, encode

SIZE, TOKENS = 128, 8  # pixels, and tokens on a side
TOLERANCE = 1e-5
STEPS = 4
FLOW = {"sampler_name": "Euler", "scheduler": "Simple", "cfg_scale": 4, "steps": STEPS}


def picture(seed: int = 0) -> str:
    coarse = torch.rand(1, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
    smooth = torch.nn.functional.interpolate(coarse, (SIZE, SIZE), mode="bilinear")[0]
    return encode((smooth.permute(1, 2, 0) * 255).byte().numpy())


def half() -> str:
    """White on the left."""
    mask = torch.zeros(SIZE, SIZE, 3, dtype=torch.uint8)
    mask[:, : SIZE // 2] = 255
    return encode(mask.numpy())


def unit(model: str = "all", seed: int = 0, **settings: Any) -> dict[str, Any]:
    return {"enabled": True, "module": "None", "model": model, "image": picture(seed), **settings}


def draw(host: Host, *units: dict[str, Any], **settings: Any) -> Drawing:
    names = {name.split(" [")[0]: name for name in host.get("controlnet/model_list")["model_list"]}
    full = [{**each, "model": names[each["model"]]} for each in units]
    return host.draw(*full, record=True, **{"width": SIZE, "height": SIZE, **FLOW, **settings})


def outs(drawing: Drawing) -> list[torch.Tensor]:
    return [each.out for each in drawing.evaluations]


@pytest.fixture(scope="module")
def plain(neo: Host) -> Drawing:
    return draw(neo)


def same(one: Drawing, other: Drawing) -> bool:
    pairs = zip(outs(one), outs(other), strict=True)
    return all(torch.equal(*pair) for pair in pairs) and (one.pictures[0] == other.pictures[0]).all()


IMG2IMG = {"route": "img2img", "init_images": [picture(5)], "denoising_strength": 0.7}
HIRES = {
    "enable_hr": True, "hr_scale": 1.5, "hr_upscaler": "None", "denoising_strength": 0.6,
    "hr_additional_modules": ["Use same choices"],
}  # fmt: skip
CASES: dict[str, tuple[tuple[dict[str, Any], ...], dict[str, Any]]] = {
    "none": ((), {}),
    "one": ((unit(),), {}),
    "weight": ((unit(weight=0.6),), {}),
    "batch": ((unit(),), {"batch_size": 2}),
    "img2img": ((unit(),), IMG2IMG),
    "hires": ((unit(),), HIRES),
}


@pytest.mark.parametrize("name", CASES)
def test_equals_the_built_in(neo: Host, neo_own: Host, name: str) -> None:
    """Where both mean the same: one unit, on all steps and rows, without a mask."""
    units, settings = CASES[name]
    found, wanted = (draw(host, *units, **settings) for host in (neo, neo_own))
    assert len(found.evaluations) == len(wanted.evaluations) > 0
    for mine, other in zip(outs(found), outs(wanted), strict=True):
        assert (mine - other).abs().max() <= TOLERANCE * other.abs().max()


def test_the_hint_matters_and_nothing_stays(neo: Host, plain: Drawing) -> None:
    one, other = (outs(draw(neo, unit(seed=seed)))[0] for seed in (0, 7))
    assert (one - outs(plain)[0]).abs().max() > 0.05 * one.abs().max()
    assert (one - other).abs().max() > 0.01 * one.abs().max()
    assert same(draw(neo), plain)
    assert neo.count()["hooks"] == 0


def test_sides_that_are_not_whole_tokens(neo: Host) -> None:
    size = {"width": 136, "height": 120}
    drawn, other = outs(draw(neo, unit(), **size))[0], outs(draw(neo, **size))[0]
    assert (drawn - other).abs().max() > 0.05 * other.abs().max()


RANGES = {"first half": (0.0, 0.4, [0, 1]), "second half": (0.5, 1.0, [2, 3]), "middle": (0.3, 0.6, [2])}


@pytest.mark.parametrize("name", RANGES)
@pytest.mark.parametrize("apart", [False, True])
def test_a_range_goes_along_the_noise(neo: Host, plain: Drawing, name: str, apart: bool) -> None:
    """Also where prompts of unequal length are evaluated one after the other. Simple's steps are even along it."""
    start, end, steps = RANGES[name]
    more = {"prompt": "a cat, " * 300} if apart else {}
    drawn = draw(neo, unit(guidance_start=start, guidance_end=end), **more)
    base = draw(neo, **more) if apart else plain
    assert len(drawn.evaluations) == (2 * STEPS if apart else STEPS)
    first = next(n for n, each in enumerate(drawn.evaluations) if each.call == steps[0])
    for n, (mine, other) in enumerate(zip(outs(drawn), outs(base), strict=True)):
        if n < first:
            assert torch.equal(mine, other)
    assert not torch.equal(outs(drawn)[first], outs(base)[first])
    assert f"acted on {len(steps)} of {STEPS} steps" in neo.log.read_text().rsplit("unit 0", 1)[1]


def test_a_mask_lies_on_the_tokens(neo: Host, plain: Drawing) -> None:
    """What the last MLP adds to a token reaches the latents of that token alone."""
    whole, masked = outs(draw(neo, unit("last")))[0], outs(draw(neo, unit("last", effective_region_mask=half())))[0]
    left = slice(0, whole.shape[-1] // 2)
    wanted = outs(plain)[0].clone()
    wanted[..., left] = whole[..., left]
    assert (whole - outs(plain)[0]).abs().amin() >= 0 and (whole - outs(plain)[0])[..., left].abs().max() > 0
    assert (masked - wanted).abs().max() <= TOLERANCE * wanted.abs().max()


def test_modes_choose_the_rows(neo: Host, plain: Drawing) -> None:
    modes = ("Balanced", "My prompt is more important", "ControlNet is more important")
    balanced, prompt, control = (draw(neo, unit(control_mode=mode)).evaluations[0] for mode in modes)
    before = plain.evaluations[0]
    assert torch.equal(balanced.out, prompt.out)
    for row, cond in enumerate(control.cond):
        wanted = balanced if cond else before
        assert (control.out[row] - wanted.out[row]).abs().max() <= TOLERANCE * wanted.out.abs().max()
    assert sorted(control.cond) == [False, True]


def test_several_units_add_up(neo: Host, plain: Drawing) -> None:
    """Before the last MLP both see the same, and their sum is added: weights of one file add up."""
    one, two = unit("last", weight=0.5), unit("last", weight=0.3)
    found, wanted = outs(draw(neo, one, two))[0], outs(draw(neo, unit("last", weight=0.8)))[0]
    assert (found - wanted).abs().max() <= TOLERANCE * wanted.abs().max()
    both, alone = outs(draw(neo, unit(), unit("other", 3)))[0], outs(draw(neo, unit()))[0]
    assert (both - alone).abs().max() > 0.02 * alone.abs().max()


def test_a_curve_and_low_memory(neo: Host) -> None:
    steady, curve = outs(draw(neo, unit(weight=0.5)))[0], outs(draw(neo, unit(curve="0:0.5, 1:0")))[0]
    assert (steady - curve).abs().max() <= TOLERANCE * steady.abs().max()
    low = draw(neo, unit(weight=0.5, low_vram=True))
    assert torch.equal(outs(low)[0], steady)


def test_a_hole_is_filled(neo: Host) -> None:
    """The picture outside comes back, as inpaint_only promises."""
    asked = unit("hole", module="inpaint_only", mask=half())
    drawn, other = draw(neo, asked), draw(neo, unit("hole"))
    assert not torch.equal(outs(drawn)[0], outs(other)[0])
    import numpy as np
    from webui_host import decode

    kept = np.abs(drawn.pictures[0].astype(int) - decode(picture()).astype(int))[:, SIZE * 3 // 4 :]
    assert kept.max() <= 2


@pytest.mark.parametrize("how", ["raise", "interrupt"])
def test_failures_leave_nothing_behind(neo: Host, plain: Drawing, how: str) -> None:
    neo.post(f"test/set?how={how}&call=2")
    body: dict[str, Any] = {"prompt": "a cat", "width": SIZE, "height": SIZE, **FLOW}
    body["alwayson_scripts"] = {"ControlNet": {"args": [unit()]}}
    if how == "raise":
        with pytest.raises(RequestError, match="the test asked for a failure"):
            neo.post("sdapi/v1/txt2img", body)
    else:
        neo.post("sdapi/v1/txt2img", body)
    assert same(draw(neo), plain)
    count = neo.count()
    assert (count["hooks"], count["controls"]) == (0, 0)


REFUSED = {
    "canny": r"'canny' was trained for .* \(a U-Net\), the loaded checkpoint is a transformer like Anima \(2 blocks",
    "narrow": r"'narrow' was trained for .* \(1 block of tokens 32 wide\), the loaded .* \(2 blocks of tokens 64 wide",
}


@pytest.mark.parametrize("model", REFUSED)
def test_what_is_for_another_base_is_refused(neo: Host, plain: Drawing, model: str) -> None:
    with pytest.raises(RequestError, match=REFUSED[model]) as caught:
        draw(neo, unit(model))
    assert caught.value.status == 422
    assert same(draw(neo), plain)


@pytest.mark.parametrize("module", ["reference_only", "reference_adain", "revision_clipvision"])
def test_controls_without_a_file_are_refused(neo: Host, module: str) -> None:
    asked = {"enabled": True, "module": module, "model": "None", "image": picture()}
    with pytest.raises(RequestError) as caught:
        neo.draw(asked, width=SIZE, height=SIZE, **FLOW)
    assert caught.value.status == 422
    assert re.search("was trained for a U-Net, the loaded|vector condition", str(caught.value))


def test_a_picture_tells_its_unit(neo: Host) -> None:
    info = draw(neo, unit(weight=0.6)).info["infotexts"][0]
    assert re.search(r'ControlNet 0: "Module: none, Model: all \[', info, re.IGNORECASE)


def test_reference_pictures_are_refused_while_a_unit_acts(neo: Host, plain: Drawing) -> None:
    """They are further tokens, for which there is no hint."""
    references = {**IMG2IMG, "override_settings": {"anima_do_reference": True}}
    with pytest.raises(RequestError, match=r"64 tokens of the hint for 128 of the picture.*reference pictures"):
        draw(neo, unit(), **references)
    assert neo.count()["hooks"] == 0
    # the program gives back no setting that nobody had said before, and keeps references until it reads a picture
    neo.post("sdapi/v1/options", {"anima_do_reference": False})
    draw(neo, **IMG2IMG)
    assert same(draw(neo), plain)
