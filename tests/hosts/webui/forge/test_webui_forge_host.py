"""Our units in a real Forge and a real reForge: the same numbers as their own ControlNet, and nothing elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import forge_world
import pytest
import torch
import webui_host
from webui_host import Drawing, Host, RequestError, encode

SIZE = 128
TOLERANCE = 1e-5
RANGE = {"guidance_start": 0.2, "guidance_end": 0.6}
HIRES = {"enable_hr": True, "hr_scale": 1.5, "hr_upscaler": "Latent", "denoising_strength": 0.6}


def picture(seed: int = 0) -> str:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 6, 6, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (SIZE, SIZE), mode="bilinear")[0]
    return encode((smooth.permute(1, 2, 0) * 255).byte().numpy())


def unit(seed: int = 0, **settings: Any) -> dict[str, Any]:
    return {"enabled": True, "module": "None", "model": "canny", "image": picture(seed), **settings}


def draw(host: Host, *units: dict[str, Any], **settings: Any) -> Drawing:
    """The built-in extension knows models by their full names alone, and Forge asks what a hires pass loads."""
    names = {name.split(" [")[0]: name for name in host.get("controlnet/model_list")["model_list"]}
    full = [{**each, "model": names[each["model"]]} for each in units]
    more = {"hr_additional_modules": ["Use same choices"]} if "enable_hr" in settings else {}
    return host.draw(*full, record=True, width=SIZE, height=SIZE, **more, **settings)


HALF = torch.zeros(SIZE, SIZE, 3, dtype=torch.uint8)
HALF[:, : SIZE // 2] = 255
PAINTED = {"route": "img2img", "init_images": [picture(5)], "denoising_strength": 0.7, "mask": encode(HALF.numpy())}
# reForge's own ControlNet hands these to a patcher and a U-Net that do not look at them: there is nothing to equal.
IGNORED = {"REFORGE": {"prompt", "control", "tile_colorfix", "tile_colorfix+sharp", "tile_colorfix, hires"}}
CASES: dict[str, tuple[tuple[dict[str, Any], ...], dict[str, Any]]] = {
    "none": ((), {}),
    "one": ((unit(),), {}),
    "two": ((unit(), unit(2, model="depth", weight=0.6)), {}),
    "adapter": ((unit(model="t2i"),), {}),
    "prompt": ((unit(control_mode="My prompt is more important"),), {}),
    "control": ((unit(control_mode="ControlNet is more important"),), {}),
    "range": ((unit(**RANGE),), {"steps": 6}),
    "range, DPM++ 2M": ((unit(**RANGE),), {"steps": 6, "sampler_name": "DPM++ 2M", "scheduler": "Karras"}),
    "batch": ((unit(),), {"batch_size": 2}),
    "hires": ((unit(),), HIRES),
    "hires, low": ((unit(hr_option="Low res only"),), HIRES),
    "three": ((unit(), unit(2, model="depth", weight=0.6), unit(3, model="pose", weight=1.4)), {}),
    "Heun": ((unit(**RANGE),), {"steps": 5, "sampler_name": "Heun"}),
    "DPM++ SDE": ((unit(**RANGE),), {"steps": 5, "sampler_name": "DPM++ SDE"}),
    "DDIM": ((unit(**RANGE),), {"steps": 5, "sampler_name": "DDIM"}),
    "LCM": ((unit(**RANGE),), {"steps": 5, "sampler_name": "LCM"}),
    "inpaint": ((unit(),), {**PAINTED, "inpaint_full_res": False}),
    "inpaint, only masked": ((unit(),), {**PAINTED, "inpaint_full_res": True, "inpaint_full_res_padding": 8}),
    "img2img": ((unit(),), {"route": "img2img", "init_images": [picture(5)], "denoising_strength": 0.7}),
}


def skip_ignored(program: Path, name: str) -> None:
    if name in IGNORED.get(webui_host.name_of(program), ()):
        pytest.skip("the program's own ControlNet ignores this")


@pytest.mark.parametrize("name", CASES)
def test_equals_the_built_in(program: Path, ours: Host, theirs: Host, name: str) -> None:
    skip_ignored(program, name)
    units, settings = CASES[name]
    found, wanted = (draw(host, *units, **settings) for host in (ours, theirs))
    assert len(found.evaluations) == len(wanted.evaluations) > 0
    for mine, other in zip(found.evaluations, wanted.evaluations, strict=True):
        assert (mine.out - other.out).abs().max() <= TOLERANCE * other.out.abs().max()


def test_the_hint_matters(ours: Host) -> None:
    one, other = (draw(ours, unit(seed)).evaluations[0].out for seed in (0, 7))
    assert (one - other).abs().max() > 0.05 * one.abs().max()


COLOURS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "tile_colorfix": (unit(module="tile_colorfix", threshold_a=3), {}),
    "tile_colorfix+sharp": (unit(module="tile_colorfix+sharp", threshold_a=3, threshold_b=1), {}),
    "tile_colorfix, hires": (unit(module="tile_colorfix", threshold_a=3), HIRES),
}
NOISY = 0.01  # Forge announces a hires pass twice; its own encodes twice, and so draws other noise for the autoencoder


@pytest.mark.parametrize("name", COLOURS)
def test_colours_come_back_as_with_the_built_in(program: Path, ours: Host, theirs: Host, name: str) -> None:
    """It changes what the U-Net answers, ours what is seen in it: the same for the latents of the next step."""
    skip_ignored(program, name)
    asked, settings = COLOURS[name]
    found, wanted = (draw(host, asked, steps=4, **settings) for host in (ours, theirs))
    plain = draw(ours, unit(), steps=4, **settings)
    for mine, other in zip(found.evaluations, wanted.evaluations, strict=True):
        tolerance = NOISY if mine.hires else TOLERANCE
        assert (mine.x - other.x).abs().max() <= tolerance * other.x.abs().max()
    assert (found.evaluations[-1].x - plain.evaluations[-1].x).abs().max() > 0.05


TILED = {"MultiDiffusion": 1, "Mixture of Diffusers": 4}  # and how many tiles at once


@pytest.mark.parametrize("method", TILED)
@pytest.mark.parametrize("mode", ["Balanced", "ControlNet is more important"])
def test_tiles_of_forges_own_see_their_part(program: Path, ours: Host, theirs: Host, method: str, mode: str) -> None:
    """As with the built-in, tile by tile; and several at once draw the same."""
    if webui_host.name_of(program) != "FORGE":
        pytest.skip("only Forge has an own tiled drawing that works with controls")
    found, wanted = (drawn_in_tiles(host, method, 1, control_mode=mode) for host in (ours, theirs))
    assert len(found.evaluations) == len(wanted.evaluations) == 3 * 9
    for mine, other in zip(found.evaluations, wanted.evaluations, strict=True):
        assert (mine.out - other.out).abs().max() <= TOLERANCE * other.out.abs().max()
    several = drawn_in_tiles(ours, method, TILED[method], control_mode=mode)
    assert (several.samples - found.samples).abs().max() <= 1e-3 * found.samples.abs().max()
    assert "sees the whole control picture" not in ours.log.read_text()


def drawn_in_tiles(host: Host, method: str, at_once: int, **settings: Any) -> Drawing:
    """Three by three tiles that overlap by half."""
    return draw(host, unit(**settings), scripts={"MultiDiffusion Integrated": [True, method, 64, 64, 32, at_once]})


@pytest.mark.parametrize("settings", [{"weight": 0}, {"enabled": False}])
def test_what_cannot_act_changes_no_bit(ours: Host, settings: dict[str, Any]) -> None:
    plain, drawn = draw(ours), draw(ours, unit(**settings))
    assert all(torch.equal(a.out, b.out) for a, b in zip(plain.evaluations, drawn.evaluations, strict=True))


def test_faults_and_failures_leave_nothing_behind(ours: Host) -> None:
    plain = draw(ours)
    with pytest.raises(RequestError, match="was trained for") as caught:
        draw(ours, unit(model="xl"))
    assert caught.value.status == 422
    ours.post("test/set?how=raise&call=2")
    body: dict[str, Any] = {"steps": 3, "width": SIZE, "height": SIZE, "sampler_name": "Euler a"}
    body["alwayson_scripts"] = {"ControlNet": {"args": [unit()]}}
    with pytest.raises(RequestError, match="the test asked for a failure"):
        ours.post("sdapi/v1/txt2img", body)
    again = draw(ours)
    assert all(torch.equal(a.out, b.out) for a, b in zip(plain.evaluations, again.evaluations, strict=True))
    assert ours.count()["hooks"] == 0


def test_beside_the_built_in_ours_says_what_to_do(program: Path, forge_models: Path, tmp_path: Path) -> None:
    forge_world.prepare(program, tmp_path, forge_models, built_in=True)
    with webui_host.started(program, tmp_path, forge_models, flags=forge_world.FLAGS) as both:
        assert both.get("controlnet/model_list")["model_list"][0] == "None"  # Forge's own answers
        assert "untick 'sd_forge_controlnet'" in both.log.read_text()
