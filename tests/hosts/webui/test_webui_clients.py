"""Other extensions that give units to ours, run in a real WebUI with their own code."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webui_host
from controlstack.scripts.webui.request.arguments import FIELDS
from PIL import Image
from webui_host import Drawing, Host, Picture, decode, encode
from webui_oracle import Oracle, Place, Wanted
from webui_units import TOLERANCE, differ, photograph, same

SIZE = 64
BASE = {"prompt": "a cat", "negative_prompt": "a dog", "steps": 3, "width": SIZE, "height": SIZE, "seed": 1}
ONLY_PICTURES = {"return_grid": False}


def model(host: Host, stem: str) -> str:
    """The name of a control model with its hash, as lists offer it."""
    names: list[str] = host.get("controlnet/model_list")["model_list"]
    return next(name for name in names if name.startswith(f"{stem} ["))


def squares(seed: int = 0) -> Picture:
    """Edges that Canny finds."""
    picture = np.full((SIZE, SIZE, 3), 40, np.uint8)
    picture[10 + seed : 40, 8:50] = (220, 180, 90)
    return picture


def unit(**settings: Any) -> dict[str, Any]:
    return {"enabled": True, "module": "canny", "model": "canny", "image": encode(squares()), **settings}


def page_unit(**settings: Any) -> list[Any]:
    """The values of one tab of the page, which are the arguments of another script of ours."""
    values = dict.fromkeys(FIELDS) | {"module": "none", "weight": 1.0, "processor_res": 64}
    return list((values | {"guidance_start": 0.0, "guidance_end": 1.0} | settings).values())


# --- ADetailer: draws the middle of each picture again


@pytest.fixture
def adetailer(webui_clients: Host) -> Host:
    if webui_host.find_adetailer() is None:
        pytest.skip("no ADetailer: set WEBUI_ADETAILER_PATH to its folder")
    return webui_clients


def again(**settings: Any) -> dict[str, list[Any]]:
    """ADetailer's arguments."""
    chosen = {"ad_model": "mediapipe_face_full", "ad_dilate_erode": 0, **settings}
    return {"ADetailer": [True, False, chosen]}


def redrawn(host: Host, picture: Picture, *units: dict[str, Any], selected: bool = True, **settings: Any) -> Drawing:
    """The same by img2img: only the middle is painted.

    selected: otherwise the WebUI's own scripts take part, and set the steps and the sampler to the page's defaults.
    """
    settings |= {} if selected else {"steps": 20, "sampler_name": "DPM++ 2M", "scheduler": "Automatic"}
    mask = np.zeros((SIZE, SIZE, 3), np.uint8)
    mask[SIZE // 4 : 3 * SIZE // 4, SIZE // 4 : 3 * SIZE // 4] = 255
    return host.draw(
        *units, route="img2img", init_images=[encode(picture)], mask=encode(mask), mask_blur=4, inpainting_fill=1,
        inpaint_full_res=True, inpaint_full_res_padding=32, denoising_strength=0.4, **settings,
    )  # fmt: skip


@pytest.mark.parametrize("selected", [True, False])
def test_adetailer_draws_with_a_unit_of_its_own(adetailer: Host, selected: bool) -> None:
    """Without a picture, so that it sees what is redrawn; also where the request's own unit acted before."""
    chosen = {"ad_controlnet_model": model(adetailer, "canny"), "ad_controlnet_module": "canny"}
    chosen |= {"ad_controlnet_weight": 0.8, "ad_controlnet_guidance_end": 0.9}
    options = {"override_settings": {"ad_only_selected_scripts": selected}}
    own = unit(image=None, weight=0.8, guidance_end=0.9, pixel_perfect=True)
    for units in ((), (unit(),)):
        first = adetailer.draw(*units)
        wanted = redrawn(adetailer, first.pictures[0], own, selected=selected)
        found = adetailer.draw(*units, scripts=again(**chosen), **options)
        assert (found.pictures[0] == wanted.pictures[0]).all()
        without = adetailer.draw(*units, scripts=again(), **options)
        assert differ(found, without) > 1
    assert adetailer.count()["hooks"] == 0


@pytest.mark.parametrize("selected", [True, False])
@pytest.mark.parametrize("page", [False, True])
def test_adetailer_without_a_unit_switches_ours_off(adetailer: Host, selected: bool, page: bool) -> None:
    """Units of clients, and those of two tabs of the page."""
    options = {"override_settings": {"ad_only_selected_scripts": selected}}
    sent, fields = [unit(), unit(model="depth")], []
    if page:
        tabs = [page_unit(enabled=True, model=name, module="canny") for name in ("canny", "depth")]
        sent, fields = [], [*tabs[0], *tabs[1]]
        options |= {"init_images": [encode(photograph(3))], "route": "img2img", "denoising_strength": 0.7}
    asked = {"ControlNet": sent, "ControlStack": fields}
    first = adetailer.draw(scripts=asked, **options)
    assert differ(first, adetailer.draw(**options)) > 1
    wanted = redrawn(adetailer, first.pictures[0], selected=selected)
    found = adetailer.draw(scripts={**asked, **again()}, **options)
    assert (found.pictures[0] == wanted.pictures[0]).all()


def test_adetailer_passes_units_through(adetailer: Host) -> None:
    first = adetailer.draw(unit())
    wanted = redrawn(adetailer, first.pictures[0], unit())
    found = adetailer.draw(unit(), scripts=again(ad_controlnet_model="Passthrough"))
    assert (found.pictures[0] == wanted.pictures[0]).all()


def test_adetailer_in_between_changes_nothing_of_what_follows(adetailer: Host) -> None:
    """Three batches of two: it draws other requests before ours has ended, and ends a copy of it."""
    mask = np.zeros((SIZE, SIZE, 3), np.uint8)
    mask[:, : SIZE // 2] = 255
    asked = unit(module="inpaint_only", image=encode(photograph(5)), mask=encode(mask))
    settings: dict[str, Any] = {"n_iter": 3, "batch_size": 2, "override_settings": ONLY_PICTURES}
    plain = adetailer.draw(asked, **settings)
    found = adetailer.draw(asked, scripts=again(), **settings)
    assert len(plain.pictures) == len(found.pictures) == 6 + 1
    assert (plain.pictures[6] == found.pictures[6]).all()
    for number in range(6):
        wanted = redrawn(adetailer, plain.pictures[number], seed=1 + number)
        assert (found.pictures[number] == wanted.pictures[0]).all(), number
    assert adetailer.count()["hooks"] == 0
    assert same(adetailer.draw(asked, **settings), plain)


# --- Deforum: one unit for each of its tabs and frames


@pytest.fixture
def deforum(webui_clients: Host) -> Host:
    if "DEFORUM_PATH" not in os.environ:
        pytest.skip(
            "no Deforum: set DEFORUM_PATH to the folder of sd-webui-deforum, with numexpr in the WebUI's Python"
        )
    return webui_clients


def test_deforums_page_lists_what_there_is(deforum: Host) -> None:
    page = deforum.get("test/deforum_page")
    assert page["models"] == deforum.get("controlnet/model_list")["model_list"]
    assert {"none", "canny", "openpose_full"} <= set(page["modules"]) and "weight" in page["names"]


@pytest.mark.parametrize("kind", ["txt2img", "img2img"])
def test_deforum_draws_a_frame(deforum: Host, tmp_path: Path, kind: str) -> None:
    """Its schedules give numbers of numpy, its tabs five units, most of them off."""
    files = [tmp_path / "first.png", tmp_path / "second.png"]
    for seed, file in enumerate(files):
        Image.fromarray(squares(10 * seed)).save(file)
    names = [model(deforum, stem) for stem in ("canny", "depth")]
    controls = [
        {
            "enabled": True, "model": names[0], "module": "canny", "weight": "0:(0.4), 2:(0.8)",
            "vid_path": str(files[0]),
        },
        {},
        {
            "enabled": True, "model": names[1], "vid_path": str(files[1]), "resize_mode": "Outer Fit (Shrink to Fit)",
            "control_mode": "My prompt is more important", "pixel_perfect": True, "guidance_end": "0:(0.5)",
        },
    ]  # fmt: skip
    more = {} if kind == "txt2img" else {"denoising_strength": 0.8}
    body = {
        "kind": kind, "picture": encode(photograph(4)), "folder": str(tmp_path), "frame": 1, "controls": controls,
        "settings": {**BASE, **more, "sampler_name": "Euler a", "cfg_scale": 7},
    }  # fmt: skip
    found = [decode(each) for each in deforum.post("test/deforum", body)["images"]]
    read = [
        np.array(Image.open(tmp_path / f"controlnet_{i}_inputframes" / "000000000.jpg").convert("RGB")) for i in (1, 3)
    ]
    units = [
        unit(image=encode(read[0]), weight=0.6, processor_res=64, threshold_a=64, threshold_b=64),
        unit(
            module="none", model="depth", image=encode(read[1]), resize_mode="Resize and Fill", pixel_perfect=True,
            control_mode="My prompt is more important", guidance_end=0.5,
        ),
    ]  # fmt: skip
    scene = {} if kind == "txt2img" else {"init_images": [encode(photograph(4))], **more}
    wanted = deforum.draw(*units, route=kind, **scene)
    assert len(found) == len(wanted.pictures) == 3
    assert all((a == b).all() for a, b in zip(found, wanted.pictures, strict=True))
    assert differ(wanted, deforum.draw(route=kind, **scene)) > 1


# --- Ultimate SD upscale


def test_ultimate_upscale_shows_units_each_tile_of_their_picture(webui_clients: Host, webui_models: Path) -> None:
    """The last tile is what the test pack wrote down: the lower right quarter, for there is no overlap."""
    if webui_host.find_ultimate() is None:
        pytest.skip("no Ultimate SD upscale: set WEBUI_ULTIMATE_PATH to its folder")
    scene, hint = photograph(7, 2 * SIZE), photograph(8, 2 * SIZE)
    asked = unit(module="none", image=encode(hint))
    drawing = webui_clients.draw(
        asked, route="img2img", init_images=[encode(scene)], steps=8, denoising_strength=0.5, record=True,
        script_name="Ultimate SD upscale",
        script_args=["", SIZE, SIZE, 0, 0, 64, 0.35, 32, 0, True, 0, False, 0, 0, 2, 0, 0, 1],
    )  # fmt: skip
    wanted = Wanted(hints={False: hint[SIZE:, SIZE:]})
    oracle = Oracle(webui_models)
    assert len(drawing.evaluations) == 5 and drawing.pictures[0].shape == scene.shape
    for step, seen in enumerate(drawing.evaluations):
        answer = oracle.answer(seen, (wanted,), Place(step, 0, 5))
        assert (seen.out - answer).abs().max() <= TOLERANCE * answer.abs().max(), step


# --- Inpaint Anything


@pytest.mark.parametrize("module", ["inpaint_global_harmonious", "canny"])
def test_inpaint_anything(webui_clients: Host, module: str) -> None:
    if "INPAINT_ANYTHING_PATH" not in os.environ:
        pytest.skip("no Inpaint Anything: set INPAINT_ANYTHING_PATH to the folder of sd-webui-inpaint-anything")
    mask = np.zeros((SIZE, SIZE, 3), np.uint8)
    mask[20:50, 10:40] = 255
    body = {"picture": encode(photograph(6)), "mask": encode(mask), "module": module}
    body["model"] = model(webui_clients, "canny")
    found = decode(webui_clients.post("test/inpaint_anything", body)["images"][0])
    asked = unit(
        module=module, weight=0.7, image={"image": encode(photograph(6)), "mask": encode(mask)}, processor_res=64,
        resize_mode="Just Resize", pixel_perfect=True, threshold_a=0.5, threshold_b=0.5,
    )  # fmt: skip
    settings: dict[str, Any] = {
        "init_images": [body["picture"]], "mask": body["mask"], "mask_blur": 4, "inpainting_fill": 1,
        "inpaint_full_res": False, "denoising_strength": 0.8,
    }  # fmt: skip
    wanted = webui_clients.draw(asked, route="img2img", **settings)
    assert (found == wanted.pictures[0]).all()
    assert differ(wanted, webui_clients.draw(route="img2img", **settings)) > 1


# --- Replacer


@pytest.mark.parametrize("module", [None, "canny", "inpaint_only"])
def test_replacer(webui_clients: Host, module: str | None) -> None:
    """Without a unit, as its page, which shows none of ours; with one, as its API."""
    if "REPLACER_PATH" not in os.environ:
        pytest.skip("no Replacer: set REPLACER_PATH to the folder of sd-webui-replacer")
    mask = np.zeros((SIZE, SIZE, 3), np.uint8)
    mask[20:50, 10:40] = 255
    scene, painted = encode(photograph(6)), encode(mask)
    sampling: dict[str, Any] = {"denoising_strength": 0.8, "sampler_name": "Euler a", "cfg_scale": 7}
    area: dict[str, Any] = {"inpaint_full_res": False, "inpainting_fill": 1, "mask_blur": 0}
    sent = None if module is None else unit(module=module, image=None)
    body = {"picture": scene, "mask": painted, "unit": sent, "settings": {**BASE, **sampling, **area}}
    found = decode(webui_clients.post("test/replacer", body)["images"][0])
    settings: dict[str, Any] = {"route": "img2img", "init_images": [scene], **sampling}
    if module == "inpaint_only":  # it leaves the painting to the unit
        image = {"image": scene, "mask": painted}
        asked = [unit(module=module, image=image, resize_mode="Resize and Fill", inpaint_crop_input_image=False)]
    else:
        asked = [] if sent is None else [sent]
        settings |= {**area, "mask": painted}
    wanted = webui_clients.draw(*asked, **settings)
    assert (found == wanted.pictures[0]).all()
    assert not asked or differ(wanted, webui_clients.draw(**settings)) > 1
