"""What a unit of the page says and keeps: tabs, sentences, previews, poses, empty canvases, and what texts set."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from webui_page import A1111, FORGE, Page, differ, expect, read, shoot

both = pytest.mark.parametrize("page_host", [A1111, FORGE], indirect=True)
POINTS = [(64, 20), (64, 40), (44, 40), (36, 60), (30, 80), (84, 40), (92, 60), (98, 80), (54, 80), (52, 100)]
POINTS += [(50, 120), (74, 80), (76, 100), (78, 120), (60, 16), (68, 16), (56, 20), (72, 20)]
FRAME = {
    "people": [{"pose_keypoints_2d": [number for point in POINTS for number in (*point, 1)]}],
    "canvas_width": 128, "canvas_height": 128,
}  # fmt: skip
OUR_OWN = (
    "Module: canny, Model: canny, Weight: 3.5, Resize Mode: Just Resize, Processor Res: 256, Threshold A: 30, "
    "Threshold B: 60, Guidance Start: 0.1, Guidance End: 0.9, Pixel Perfect: False, Control Mode: Balanced, "
    "Resolution: 0, Preprocessor Seed: 7, Delta Strength: 2.5"
)
OLD = (
    "preprocessor: canny, model: canny, weight: 0.8, starting/ending: (0.2, 0.7), resize mode: Just Resize, "
    "pixel perfect: False, control mode: Balanced, preprocessor params: (256, 30, 60)"
)
TEXT = 'a cat\nSteps: 3, Sampler: Euler a, Seed: 5, Size: 64x64, ControlNet 0: "{}", Version: 1.10.1'


def paste(page: Page, text: str) -> None:
    page.fill("#txt2img_prompt textarea", text)
    page.page.click("#paste")


@both
def test_a_tab_names_the_type_of_its_unit(page: Page, photograph: Path) -> None:
    tab = page.page.locator("#txt2img_controlnet_tabs > .tab-nav > button").first
    expect(tab).to_have_text("ControlNet Unit 0")
    page.canny(photograph)
    expect(tab).to_have_text("ControlNet Unit 0 [Canny]")
    page.type("Depth")
    expect(tab).to_have_text("ControlNet Unit 0 [Depth]")
    page.tick("enable", on=False)
    expect(tab).to_have_text("ControlNet Unit 0")


@both
def test_a_sentence_names_its_unit_and_no_class(page: Page, photograph: Path) -> None:
    page.unit_tab(1)
    page.upload(photograph, 1)
    said = page.refused()
    assert "ControlNet: unit 1: it is on, but has no model" in said and "Error" not in said


@both
def test_another_preprocessor_takes_the_old_hint_away(page: Page, photograph: Path) -> None:
    page.canny(photograph)
    page.preview()
    page.type("Blur")
    expect(page.of("generated_image").locator("img")).to_have_count(0)
    expect(page.of("controlnet_preprocessor_dropdown").locator("input").first).to_have_value("blur_gaussian")


@both
def test_a_failed_preview_leaves_no_marks(page: Page, photograph: Path, tmp_path: Path) -> None:
    page.tick("preprocessor_preview")
    page.of("controlnet_trigger_preprocessor").click()
    expect(page.of("said")).to_contain_text("there is no picture to look at")
    shoot(page, tmp_path, "refused preview")
    assert page.page.locator("#txt2img_controlnet .error").count() == 0
    page.canny(photograph)
    assert page.preview().any()
    expect(page.of("said")).not_to_contain_text("picture")


@both
def test_poses_of_a_file_are_the_picture(page: Page, tmp_path: Path) -> None:
    file = tmp_path / "pose.json"
    file.write_text(json.dumps([FRAME]))
    page.of("controlnet_pose_upload").locator("xpath=..").locator("input[type=file]").first.set_input_files(file)
    expect(page.badge).to_have_text("1 unit")
    link = page.of("pose").locator("a.cnet-pose-link")
    expect(link).to_be_visible()
    assert (link.get_attribute("href") or "").startswith("data:application/json;base64,")
    drawn = page.preview()
    assert (drawn == 0).all(-1).mean() > 0.5 and len(np.unique(drawn.reshape(-1, 3), axis=0)) > 5, "limbs in colours"
    wrong = tmp_path / "wrong.json"  # of another name: the browser takes the same one for no change
    wrong.write_text("{}")
    page.of("controlnet_pose_upload").locator("xpath=..").locator("input[type=file]").first.set_input_files(wrong)
    expect(page.of("said")).to_contain_text("canvas_width")


@both
def test_an_empty_canvas_is_drawn_on(page: Page) -> None:
    page.number("#txt2img_width", 256)
    page.number("#txt2img_height", 192)
    page.of("controlnet_canvas_button").click()
    expect(page.badge).to_have_text("1 unit")
    page.paint("input_image", (0.25, 0.5), (0.75, 0.5))
    drawn = page.preview()
    assert 0.001 < (drawn[..., 0] > 127).mean() < 0.3, "strokes, not the white ground"
    assert abs(drawn.shape[1] / drawn.shape[0] - 256 / 192) < 0.05


@both
def test_what_a_text_says_is_shown_and_sent(page: Page, photograph: Path, tmp_path: Path) -> None:
    page.upload(photograph)
    paste(page, TEXT.format(OUR_OWN))
    page.has_model("canny")
    page.more()
    shoot(page, tmp_path, "below the fold")
    for name, value in (("exact_resolution", "0"), ("preprocessor_seed", "7")):
        expect(page.of(f"controlnet_{name}").locator("textarea, input").first).to_have_value(value)
    for name, value in (("control_weight", "3.5"), ("delta_strength", "2.5")):
        expect(page.of(f"controlnet_{name}_slider").locator("input[type=number]")).to_have_value(value)
    info = page.generate()
    assert "Resolution: 0" in info and "Preprocessor Seed: 7" in info and "Delta Strength: 2.5" in info


@both
def test_a_text_of_2023_sets_its_unit(page: Page, photograph: Path) -> None:
    page.upload(photograph)
    paste(page, TEXT.format(OLD))
    page.has_model("canny")
    for name, value in (("start_control_step", "0.2"), ("ending_control_step", "0.7"), ("threshold_B", "60")):
        expect(page.of(f"controlnet_{name}_slider").locator("input[type=number]")).to_have_value(value)


@both
def test_the_preprocessor_of_the_models_file(page: Page, photograph: Path) -> None:
    page.upload(photograph)
    page.choose("controlnet_preprocessor_dropdown", "auto")
    page.choose("controlnet_model_dropdown", "canny [")
    expect(page.of("about")).to_contain_text("The preprocessor that the model's own file names")
    assert "does not say which preprocessor it reads" in page.refused()


@both
def test_files_of_a_folder_that_are_no_pictures_are_said(page: Page, photograph: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a.png", "b.png"):
        (folder / name).write_bytes(photograph.read_bytes())
    (folder / "c.psd").write_bytes(b"8BPS")
    page.canny(photograph)
    page.of("input_tabs").get_by_role("tab" if page.forge else "button", name="Batch", exact=True).click()
    page.write("batch_image_dir", str(folder))
    info = page.generate()
    assert "of its batch folder 2 pictures are used, and left out 1 .psd" in info
    assert differ(*page.newest(2)) == 0 and read(photograph).any(), "the same picture twice, with one seed"
