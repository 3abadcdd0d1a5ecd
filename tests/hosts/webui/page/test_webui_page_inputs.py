"""What a person can give a unit on the page of a real WebUI and of a real Forge, and what comes of it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import control_files
import numpy as np
import pytest
import webui_world
from PIL import Image
from webui_host import Host, encode
from webui_page import A1111, FORGE, SIZE, Page, differ, expect, read, shoot

both = pytest.mark.parametrize("page_host", [A1111, FORGE], indirect=True)
CAMERA = {"flags": ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")}


def unit(photograph: Path, **settings: Any) -> dict[str, Any]:
    """What `Page.canny` makes, for a client."""
    return {"enabled": True, "image": encode(read(photograph)), "module": "canny", "model": "canny", **settings}


@pytest.fixture
def half(tmp_path: Path) -> Path:
    """A mask: the left half white, the right one black."""
    picture = np.zeros((96, 96, 3), np.uint8)
    picture[:, :48] = 255
    Image.fromarray(picture).save(tmp_path / "half.png")
    return tmp_path / "half.png"


@pytest.fixture
def wide(tmp_path: Path) -> Path:
    """A picture that is much wider than any column of the page."""
    Image.fromarray(np.full((200, 800, 3), 30, np.uint8)).save(tmp_path / "wide.png")
    return tmp_path / "wide.png"


@pytest.fixture
def union(page_host: Host) -> Iterator[str]:
    """A union for the host's checkpoint, which is there for one test; its name."""
    folder = page_host.models / "ControlNet"
    control_files.write_unions(folder, heads=webui_world.HEADS if page_host.forge else 8)
    yield "union_sd"
    for name in ("union", "union_sd"):
        (folder / f"{name}.safetensors").unlink()


@pytest.fixture
def taught(page_host: Host) -> Iterator[str]:
    """A union that was taught edges and tiles, which is there for one test; its name."""
    folder = page_host.models / "ControlNet"
    control_files.write_taught(folder, "canny,tile", webui_world.HEADS if page_host.forge else 8)
    yield "taught"
    (folder / "taught.safetensors").unlink()


@pytest.mark.parametrize("page", [CAMERA], indirect=True)
def test_a_picture_of_the_webcam_controls(page: Page) -> None:
    page.of("controlnet_webcam_enable").click()
    camera = page.of("input_image").locator("video")
    expect(camera).to_be_visible()
    page.page.wait_for_function("(video) => video.videoWidth > 0", arg=camera.element_handle())
    page.of("input_image").locator("button").first.click()
    expect(page.of("input_image").locator("img").first).to_be_visible()
    expect(page.badge).to_have_text("1 unit")
    page.type("Canny")
    page.has_model("canny")
    assert page.preview().any(), "Chromium's test picture has edges"
    info = page.generate()
    assert "Module: canny" in info
    assert differ(page.newest()[0], page.same(info).pictures[0]) > 0.5
    page.of("controlnet_webcam_enable").click()
    expect(page.of("input_image").locator("input[type=file]")).to_be_attached()


@both
def test_what_is_painted_on_a_picture_is_its_scribble(page: Page, wide: Path, tmp_path: Path) -> None:
    page.upload(wide)
    page.paint("input_image", (0.75, 0.3), (0.9, 0.6))
    shoot(page, tmp_path, "scribble")
    drawn = page.preview()
    white = np.argwhere(drawn[..., 0] > 127) / drawn.shape[:2]
    assert 0.001 < (drawn[..., 0] > 127).mean() < 0.2 and not (drawn == 30).all(-1).any(), "strokes, no picture"
    (top, left), (bottom, right) = white.min(0), white.max(0)
    assert abs((left + right) / 2 - 0.825) < 0.05 and abs((top + bottom) / 2 - 0.45) < 0.12, "where the mouse was"


@both
def test_an_uploaded_mask_is_where_a_unit_inpaints(page: Page, photograph: Path, half: Path) -> None:
    page.canny(photograph)
    page.tick("mask_upload")
    page.of("mask_image").locator("input[type=file]").set_input_files(half)
    expect(page.of("mask_image").locator("img").first).to_be_visible()
    page.type("All")
    page.choose("controlnet_preprocessor_dropdown", "inpaint_global_harmonious")
    page.choose("controlnet_model_dropdown", "canny [")
    info = page.generate()
    (drawn,) = page.newest()
    painted = {"image": encode(read(photograph)), "mask": encode(read(half))}
    client = unit(photograph, module="inpaint_global_harmonious", image=painted)
    assert (drawn == page.same(info, client).pictures[0]).all()
    assert (drawn != page.same(info, {**client, "image": painted["image"]}).pictures[0]).any()
    page.tick("mask_upload", on=False)
    page.generate()
    (again,) = page.newest()
    assert (again == page.same(info, {**client, "image": painted["image"]}).pictures[0]).all(), "hidden, it is gone"


@both
def test_a_unit_acts_in_its_region_alone(page: Page, photograph: Path, half: Path) -> None:
    page.canny(photograph)
    page.tick("effective_region")
    page.of("effective_region_mask").locator("input[type=file]").first.set_input_files(half)
    expect(page.of("effective_region_mask").locator("img").first).to_be_visible()
    page.page.wait_for_timeout(1000)
    info = page.generate()
    (drawn,) = page.newest()
    client = unit(photograph)
    assert (drawn == page.same(info, {**client, "effective_region_mask": encode(read(half))}).pictures[0]).all()
    page.paint("effective_region_mask", (0.7, 0.2), (0.7, 0.8))
    page.generate()
    (painted,) = page.newest()
    assert differ(painted, drawn) > 0.1 and differ(painted, page.same(info, client).pictures[0]) > 0.1


@both
def test_the_weight_follows_its_curve(page: Page, photograph: Path) -> None:
    page.canny(photograph)
    page.more()
    page.write("weight_curve", "0: 1; 0.4: oops")
    wrong = page.of("plan").locator(".cnet-plan-wrong")
    expect(wrong).to_contain_text("oops")
    page.write("weight_curve", "0: 1; 0.3: 0")
    expect(page.of("plan")).to_contain_text("steps")
    expect(wrong).to_have_count(0)
    info = page.generate()
    assert "Curve: 0%3A 1; 0.3%3A 0" in info
    (drawn,) = page.newest()
    assert (drawn == page.same(info, unit(photograph, curve="0: 1; 0.3: 0")).pictures[0]).all()
    assert (drawn != page.same(info, unit(photograph)).pictures[0]).any()


@both
def test_block_weights_reach_the_run(page: Page, photograph: Path) -> None:
    page.canny(photograph)
    page.more()
    page.write("advanced_weighting", "1 0 0 0 0 0 0 0 0 0 0 0 0.5")
    info = page.generate()
    (drawn,) = page.newest()
    blocks = [1.0, *[0.0] * 11, 0.5]
    assert (drawn == page.same(info, unit(photograph, advanced_weighting=blocks)).pictures[0]).all()
    page.write("advanced_weighting", "1 2")
    assert "2" in page.refused()


@both
def test_the_type_of_a_union_is_asked_for_and_reaches_the_run(page: Page, photograph: Path, union: str) -> None:
    page.canny(photograph)
    page.more()
    kind = page.of("controlnet_union_control_type_dropdown")
    expect(kind).to_be_hidden()
    page.of("controlnet_refresh_models").click()
    page.page.wait_for_timeout(2000)
    page.type("All")
    page.choose("controlnet_model_dropdown", f"{union} [")
    expect(kind).to_be_visible()
    page.choose("controlnet_union_control_type_dropdown", "Depth")
    info = page.generate()
    (drawn,) = page.newest()
    assert "Union Control Type: Depth" in info
    said = unit(photograph, model=union, module="none")
    assert (drawn == page.same(info, {**said, "union_control_type": "Depth"}).pictures[0]).all()
    assert differ(drawn, page.same(info, {**said, "union_control_type": "Tile"}).pictures[0]) > 0


@both
def test_a_union_is_offered_for_what_it_was_taught_and_says_what_it_does_not_know(
    page: Page, photograph: Path, taught: str, tmp_path: Path
) -> None:
    page.canny(photograph)
    page.of("controlnet_refresh_models").click()
    page.page.wait_for_timeout(2000)
    offered = {}
    for kind in ("Canny", "Depth", "All"):
        page.type(kind)
        page.page.wait_for_timeout(2000)
        offered[kind] = any(name.startswith(f"{taught} [") for name in page.options("controlnet_model_dropdown"))
    assert offered == {"Canny": True, "Depth": False, "All": True}
    page.choose("controlnet_model_dropdown", f"{taught} [")
    page.choose("controlnet_preprocessor_dropdown", "canny")
    assert "knows no kind of hint" not in page.generate()
    page.choose("controlnet_preprocessor_dropdown", "color_grid")
    said = page.generate()
    shoot(page, tmp_path, "webui-union-warning")
    assert re.search(rf"'{taught} \[\w+\]' knows no kind of hint that color_grid makes, and reads it as it is", said)
    assert "set union_control_type to one of canny, tile" in said


@both
def test_a_folder_makes_a_picture_for_each_of_its_pictures(page: Page, photograph: Path, tmp_path: Path) -> None:
    frames, results = tmp_path / "frames", tmp_path / "results"
    frames.mkdir()
    for name, angle in (("one", 0), ("two", 30)):
        Image.open(photograph).rotate(angle).save(frames / f"{name}.png")
    page.canny(photograph)
    page.of("input_tabs").get_by_role("tab" if page.forge else "button", name="Batch", exact=True).click()
    page.write("batch_image_dir", str(frames))
    page.write("batch_output_dir", str(results))
    info = page.generate()
    assert sorted(path.name for path in results.iterdir()) == ["one.png", "two.png"]
    for name in ("one", "two"):
        (alone,) = page.same(info, unit(frames / f"{name}.png")).pictures[:1]
        assert (read(results / f"{name}.png") == alone).all(), name
    page.write("batch_image_dir", str(tmp_path / "nowhere"))
    assert "nowhere" in page.refused()


@both
def test_several_pictures_share_a_units_weight(page: Page, photograph: Path, half: Path) -> None:
    page.canny(photograph)
    page.of("input_tabs").get_by_role("tab" if page.forge else "button", name="Multi-Inputs", exact=True).click()
    page.of("multi_images").locator("input[type=file]").set_input_files([photograph, half])
    expect(page.of("multi_images")).to_contain_text(re.compile(r"half ?\.png"))
    info = page.generate()
    (drawn,) = page.newest()
    shares = [unit(each, weight=0.5) for each in (photograph, half)]
    assert (drawn == page.same(info, *shares).pictures[0]).all()


@both
def test_a_looping_unit_works_on_its_last_result(page: Page, photograph: Path) -> None:
    page.upload(photograph)
    page.choose("controlnet_model_dropdown", "canny [")
    page.more()
    page.tick("automatically_send_generated_images")
    page.number("#txt2img_batch_count", 2)
    info = page.generate()
    first, second = page.newest(2)
    plain = unit(photograph, module="none")
    assert (first == page.same(info, plain).pictures[0]).all()
    assert (second == page.same(info, {**plain, "image": encode(first)}, seed=2).pictures[0]).all()


@both
def test_a_unit_keeps_out_of_the_hires_pass(page: Page, photograph: Path) -> None:
    page.canny(photograph)
    page.pick("controlnet_hr_option_radio", "Low res only")
    page.page.locator("#txt2img_hr .label-wrap").first.click()
    page.number("#txt2img_hr_scale", 1.5)
    page.number("#txt2img_denoising_strength", 0.6)
    info = page.generate()
    assert "Hires upscale: 1.5" in info and "Hr Option: Low res only" in info
    (drawn,) = page.newest()
    hires = {"enable_hr": True, "hr_scale": 1.5, "denoising_strength": 0.6, "hr_upscaler": "Latent"}
    upscaler = re.search(r"Hires upscaler: ([^,\n]+)", info)
    hires |= {"hr_upscaler": upscaler[1]} if upscaler else {}
    hires |= {"hr_additional_modules": ["Use same choices"], "hr_cfg": 7} if page.forge else {}
    low = page.same(info, unit(photograph, hr_option="Low res only"), **hires).pictures[0]
    assert drawn.shape == (96, 96, 3) and (drawn == low).all()
    assert (drawn != page.same(info, unit(photograph), **hires).pictures[0]).any()


@both
def test_results_are_taken_into_units(page: Page) -> None:
    page.generate()
    (result,) = page.newest()
    page.of("controlnet_take_txt2img").click()
    expect(page.badge).to_have_text("1 unit")
    assert differ(page.preview(), result) < 0.01, "in the tab itself"
    page.go("img2img")
    page.of("controlnet_take_txt2img").click()
    expect(page.of("input_image").locator("img").first).to_be_visible()
    expect(page.badge).to_have_text("1 unit")
    page.of("controlnet_send_dimen_button").click()
    for name in ("width", "height"):
        expect(page.page.locator(f"#img2img_{name} input[type=number]")).to_have_value(str(SIZE))
    assert differ(page.preview(), result) < 0.01, "in the other tab"


@both
@pytest.mark.parametrize("page", [{"locale": "zh-CN"}], indirect=True)  # gradio names its buttons in its language
def test_a_picture_that_is_there_makes_way_for_a_taken_one(page: Page, photograph: Path) -> None:
    page.generate()
    (result,) = page.newest()
    page.upload(photograph)
    page.of("controlnet_take_txt2img").click()
    page.page.wait_for_timeout(2000)
    assert differ(page.preview(), result) < 0.01


@both
def test_new_models_appear_at_the_press_of_a_button(page: Page, photograph: Path) -> None:
    folder = page.host.models / "ControlNet"
    assert not [each for each in page.options("controlnet_model_dropdown") if each.startswith("fresh")]
    shutil.copy(folder / "canny.safetensors", folder / "fresh.safetensors")
    try:
        page.upload(photograph)
        page.of("controlnet_refresh_models").click()
        page.page.wait_for_timeout(2000)
        page.choose("controlnet_model_dropdown", "fresh [")
        assert "Model: fresh [" in page.generate()
    finally:
        (folder / "fresh.safetensors").unlink()
    page.of("controlnet_refresh_models").click()
    expect(page.of("controlnet_model_dropdown").locator("input").first).to_have_value("None")
    assert "has no model" in page.refused(), "it is gone, and no other takes its place"


@both
def test_a_control_type_leaves_what_belongs_to_it(page: Page) -> None:
    page.type("Canny")
    page.has_model("canny")
    modules, models = (page.options(f"controlnet_{name}_dropdown") for name in ("preprocessor", "model"))
    assert "canny" in modules and "none" in modules and not {"openpose", "depth_midas"} & set(modules)
    assert models[0] == "None" and [each.split(" [")[0] for each in models[1:]] == ["canny"]
    page.type("All")
    expect(page.of("controlnet_preprocessor_dropdown").locator("input").first).to_have_value("none")
    modules, models = (page.options(f"controlnet_{name}_dropdown") for name in ("preprocessor", "model"))
    assert {"canny", "openpose", "depth_midas"} <= set(modules)
    assert {"canny", "depth", "pose"} <= {each.split(" [")[0] for each in models}


@both
def test_img2img_lends_its_picture_to_a_unit_without_one(page: Page, photograph: Path) -> None:
    page.go("img2img")
    page.page.locator("#img2img_image input[type=file]").first.set_input_files(photograph)
    page.type("Canny")
    page.has_model("canny")
    page.tick("enable")
    expect(page.badge).to_have_text("1 unit")
    info = page.generate()
    assert "Module: canny" in info and "Denoising strength" in info
    (drawn,) = page.newest()
    client = {name: value for name, value in unit(photograph).items() if name != "image"}
    settings = {"init_images": [encode(read(photograph))], "denoising_strength": 0.75}
    assert (drawn == page.same(info, client, **settings).pictures[0]).all()
    assert differ(drawn, page.same(info, **settings).pictures[0]) > 0.5


@both
def test_the_inpaint_tab_lends_its_mask(page: Page, photograph: Path) -> None:
    page.go("img2img")
    page.page.locator("#mode_img2img button").filter(has_text=re.compile(r"^\s*Inpaint\s*$")).first.click()
    page.page.locator("#img2maskimg input[type=file]").first.set_input_files(photograph)
    rows = [0.25 + row / 40 for row in range(21)]  # A1111's brush is thin, and half a latent pixel must be painted
    page.paint_host("#img2maskimg", *((x, y) for y in rows for x in (0.2, 0.8)))
    page.choose("controlnet_preprocessor_dropdown", "inpaint_only")
    page.choose("controlnet_model_dropdown", "canny [")
    page.tick("enable")
    controlled = page.generate()
    assert "Module: inpaint_only" in controlled
    (drawn,) = page.newest()
    page.tick("enable", on=False)
    page.generate()
    (plain,) = page.newest()
    assert differ(drawn, plain) > 0.2, "the unit acts"
    source = np.array(Image.open(photograph).convert("RGB").resize((SIZE, SIZE), Image.Resampling.LANCZOS))
    assert differ(drawn[:8], source[:8]) < 12, "outside the stroke the picture stays"
