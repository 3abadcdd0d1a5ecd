"""Migrating changes no picture: the same request gives the same numbers as with sd-webui-controlnet.

The test pack writes down what the U-Net answers, so numbers are compared, not bytes of pictures.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import control_files
import numpy as np
import pytest
import torch
import webui_host
import webui_world
from webui_host import Drawing, Host, Picture, encode

TOLERANCE = 1e-4  # of the answer's range
RARE = 1e-3  # part of a picture's values that may differ by more than 1: a random decoder is steep in places
SIZE = 128


def boxes(seed: int = 0, width: int = SIZE, height: int = SIZE) -> Picture:
    """Rectangles of many colours, with noise, so that it is a photograph for every rule."""
    generator = np.random.default_rng(seed)
    picture = np.zeros((height, width, 3), np.uint8)
    for _ in range(8):
        x, y = generator.integers(0, width - 20), generator.integers(0, height - 20)
        picture[y : y + generator.integers(10, 60), x : x + generator.integers(10, 60)] = generator.integers(0, 255, 3)
    return (picture + generator.integers(0, 12, picture.shape)).clip(0, 255).astype(np.uint8)


def unit(seed: int = 0, **settings: Any) -> dict[str, Any]:
    sent = {"enabled": True, "module": "canny", "model": "canny", "image": encode(boxes(seed)), **settings}
    return {name: value for name, value in sent.items() if value is not None}


@dataclass(frozen=True)
class Case:
    units: tuple[dict[str, Any], ...]
    settings: dict[str, Any] = field(default_factory=dict)
    route: str = "txt2img"


def mask(height: int = SIZE, width: int = SIZE) -> str:
    drawn = np.zeros((height, width, 3), np.uint8)
    drawn[height // 3 : 2 * height // 3, width // 4 : 3 * width // 4] = 255
    return encode(drawn)


SMALL = encode(boxes(4, 96, 160))
SCENE = {"init_images": [encode(boxes(5))], "denoising_strength": 0.8}
PAINTED = {**SCENE, "mask": mask(), "inpaint_full_res_padding": 8}
RANGE = {"guidance_start": 0.2, "guidance_end": 0.6}
HIRES = {"enable_hr": True, "hr_scale": 1.5, "hr_upscaler": "Latent", "denoising_strength": 0.6}
SAMPLERS = ("Euler", "Heun", "DPM2 a", "DPM++ 2M", "DPM++ SDE", "DPM++ 2S a", "LMS", "DDIM", "UniPC", "Restart", "LCM")
# its previews would need a network from the internet
XL = {"override_settings": {"sd_model_checkpoint": webui_world.XL, "live_previews_enable": False}}
CONTROL, PROMPT = "ControlNet is more important", "My prompt is more important"
FREE = ("none", "invert", "blur_gaussian", "scribble_xdog", "threshold", "tile_resample")
CASES = {
    "canny": Case((unit(),)),
    "two": Case((unit(), unit(2, model="depth", module="none", weight=0.6))),
    "three": Case((unit(), unit(2, model="depth", module="none"), unit(3, model="pose", module="none", **RANGE))),
    "adapter": Case((unit(model="t2i", module="none"),)),
    "adapter, prompt": Case((unit(model="t2i", module="none", control_mode=PROMPT),)),
    "adapter, control": Case((unit(model="t2i", module="none", control_mode=CONTROL),)),
    "adapter and controlnet": Case((unit(model="t2i", module="none"), unit())),
    "prompt": Case((unit(control_mode=PROMPT),)),
    "control": Case((unit(control_mode=CONTROL),)),
    "region": Case((unit(effective_region_mask=mask()),)),
    "block weights": Case((unit(advanced_weighting=[0.1 * i for i in range(13)], weight=0.5),)),
    "AND": Case((unit(control_mode=CONTROL),), {"prompt": "a cat AND a dog"}),
    "long prompt": Case((unit(control_mode=CONTROL),), {"prompt": "a cat " * 60}),
    "batch": Case((unit(),), {"batch_size": 2, "n_iter": 2}),
    "merge": Case((unit(image=[{"image": encode(boxes(1))}, {"image": encode(boxes(2))}], input_mode="merge"),)),
    "scribble": Case((unit(image={"image": encode(boxes(1)), "mask": mask()}, module="none"),)),
    **{f"range, {name}": Case((unit(**RANGE),), {"sampler_name": name, "steps": 6}) for name in SAMPLERS},
    **{
        f"{mode}, pixel perfect": Case((unit(image=SMALL, resize_mode=mode, pixel_perfect=True),))
        for mode in ("Just Resize", "Crop and Resize", "Resize and Fill")
    },
    **{name: Case((unit(module=name, image=SMALL),)) for name in FREE},
    "hires": Case((unit(),), HIRES),
    "hires, low": Case((unit(hr_option="Low res only"),), HIRES),
    "hires, high": Case((unit(hr_option="High res only"),), HIRES),
    "img2img": Case((unit(image=None),), {**SCENE, "steps": 6, "denoising_strength": 0.5}, "img2img"),
    "img2img, cropped": Case((unit(image=None),), {**SCENE, "init_images": [SMALL], "resize_mode": 1}, "img2img"),
    "inpaint, whole": Case((unit(),), {**PAINTED, "inpaint_full_res": False}, "img2img"),
    "inpaint, only masked": Case((unit(),), {**PAINTED, "inpaint_full_res": True}, "img2img"),
    "inpaint, only masked, not cut": Case(
        (unit(inpaint_crop_input_image=False),), {**PAINTED, "inpaint_full_res": True}, "img2img"
    ),
    **{
        f"{module}, {where}": Case((unit(module=module, image=None),), {**PAINTED, "inpaint_full_res": full}, "img2img")
        for module in ("inpaint_global_harmonious", "inpaint_only")
        for where, full in (("whole", False), ("only masked", True))
    },
    **{
        f"{module}, txt2img": Case((unit(module=module, image=encode(boxes(1)), mask=mask()),))
        for module in ("inpaint_global_harmonious", "inpaint_only")
    },
    "inpaint_only, hires": Case((unit(module="inpaint_only", mask=mask()),), HIRES),
    "tile_colorfix": Case((unit(module="tile_colorfix", image=encode(boxes(1))),)),
    "tile_colorfix+sharp": Case((unit(module="tile_colorfix+sharp", image=encode(boxes(1))),)),
    "SD 2": Case((unit(model="t2i", **RANGE),), {"override_settings": {"sd_model_checkpoint": webui_world.V2}}),
    "SDXL": Case((unit(model="xl", **RANGE),), XL),
    "SDXL, two": Case((unit(model="xl"), unit(2, model="xl", module="none", weight=0.6)), XL),
    "SDXL, prompt": Case((unit(model="xl", control_mode=PROMPT),), XL),
    "SDXL, control": Case((unit(model="xl", control_mode=CONTROL),), XL),
    "SDXL, block weights": Case((unit(model="xl", advanced_weighting=[0.1 * i for i in range(10)]),), XL),
    "SDXL, region": Case((unit(model="xl", effective_region_mask=mask()),), XL),
    "SDXL, adapter": Case((unit(model="t2i_xl", module="none"),), XL),
    "SDXL, adapter, prompt": Case((unit(model="t2i_xl", module="none", control_mode=PROMPT),), XL),
    "SDXL, adapter, control, and a controlnet": Case(
        (unit(model="t2i_xl", module="none", control_mode=CONTROL), unit(model="xl")), XL
    ),
    "SDXL, hires": Case((unit(model="xl"),), {**XL, **HIRES}),
    "SDXL, DPM++ SDE": Case((unit(model="xl", **RANGE),), {**XL, "sampler_name": "DPM++ SDE", "steps": 6}),
    "recolor_intensity": Case((unit(module="recolor_intensity", image=encode(boxes(1))),)),
}


@pytest.fixture(scope="session")
def plain(webui_peer: Host) -> Drawing:
    return webui_peer.draw(record=True, width=SIZE, height=SIZE)


@pytest.fixture(scope="session", autouse=True)
def narrow(webui_peer: Host) -> None:
    """The peer knows SDXL's ControlNets by one size alone."""
    sizes = {
        "model_channels": webui_world.XL_WIDTH,
        "context_dim": webui_world.CONTEXT,
        "attention_resolutions": [2, 4],
    }
    depths = {"transformer_depth": webui_world.XL_DEPTHS, "transformer_depth_middle": webui_world.XL_DEPTHS[-1]}
    heads = {"num_head_channels": webui_world.XL_HEAD}
    known = "scripts.controlnet_model_guess.controlnet_sdxl_mid_config"
    webui_peer.post(f"test/change?path={known}", {**sizes, **depths, **heads})


def draw(host: Host, case: Case) -> Drawing:
    settings = {"width": SIZE, "height": SIZE, **case.settings}
    return host.draw(*case.units, route=case.route, record=True, **settings)


def far(first: torch.Tensor, second: torch.Tensor) -> float:
    return float((first - second).abs().max() / second.abs().max())


def texts(drawing: Drawing) -> list[str]:
    """Infotexts without what differs on purpose: our further fields, and numbers of preprocessors other than canny."""
    numbers = r"(Module: (?!canny)[^\"]*?)Processor Res: [^,]*, Threshold A: [^,]*, Threshold B: [^,]*, "
    further = r", (Hr Option|Advanced Weighting): [^,\"]*"
    return [re.sub(further, "", re.sub(numbers, r"\1", text)) for text in drawing.info["infotexts"]]


@pytest.mark.parametrize("name", CASES)
def test_equals_the_peer(webui: Host, webui_peer: Host, plain: Drawing, name: str) -> None:
    ours, theirs = draw(webui, CASES[name]), draw(webui_peer, CASES[name])
    assert len(ours.evaluations) == len(theirs.evaluations) > 0
    differences = [far(a.out, b.out) for a, b in zip(ours.evaluations, theirs.evaluations, strict=True)]
    assert max(differences) < TOLERANCE, [f"{each:.0e}" for each in differences]
    assert [each.shape for each in ours.pictures] == [each.shape for each in theirs.pictures]
    for mine, other in zip(ours.pictures, theirs.pictures, strict=True):
        far_off = np.abs(mine.astype(int) - other) > 1
        assert far_off.mean() < RARE
    assert texts(ours) == texts(theirs)


@pytest.mark.parametrize("module", ["revision_clipvision", "revision_ignore_prompt"])
def test_revision_equals_the_peers(webui: Host, webui_peer: Host, module: str) -> None:
    """The peer mixes 1 % of noise into what the encoder saw, anew in each run, also where none is asked for."""
    webui_peer.post("test/change?path=annotator.clipvision.config_clip_g", control_files.NARROW_ENCODER)
    picture = encode(boxes(6, 224, 224))  # which neither scales
    case = Case((unit(module=module, model="None", weight=0.7, image=picture, threshold_a=0),), XL)
    ours, theirs, plain = draw(webui, case), draw(webui_peer, case), draw(webui, Case((), XL))
    assert len(ours.evaluations) == len(theirs.evaluations) > 0
    for a, b in zip(ours.evaluations, theirs.evaluations, strict=True):
        assert a.y is not None and b.y is not None
        assert far(a.y, b.y) < 0.03
    first, second, without = (each.evaluations[0].out for each in (ours, theirs, plain))
    assert far(first, second) < 0.03 * far(without, second)
    assert [each.split("Module: ")[1] for each in texts(ours)] == [each.split("Module: ")[1] for each in texts(theirs)]


def test_beside_it_ours_is_off_and_says_what_to_do(
    webui_path: Path, webui_models: Path, webui_peer: Host, tmp_path: Path
) -> None:
    peer = webui_host.find_peer()
    assert peer is not None  # `webui_peer` runs it
    alone = webui_peer.draw(unit(), width=SIZE, height=SIZE)
    with webui_host.started(webui_path, tmp_path, webui_models, (webui_host.ROOT, peer)) as both:
        assert (both.draw(unit(), width=SIZE, height=SIZE).pictures[0] == alone.pictures[0]).all()
        assert re.search(r"so ControlStack is off\. To use it, untick '", both.log.read_text())
