"""The page of a real WebUI as a user sees it, in a real browser. Set WEBUI_SCREENSHOTS to keep pictures of it."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webui_host
from controlstack.preprocessors import find
from PIL import Image
from webui_host import Host, encode

playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: the page needs a browser to be seen in")
expect = playwright.expect

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
SECOND = 1000
WAIT = 40 * SECOND  # for the host on a busy machine
SIZE = 64
# A1111's own handler of width and height returns more values than it has outputs (`onCalcResolutionHires`).
ITS_OWN = "reading 'props'"
UNIT_1 = "customscript/controlnet.py/unit 1/txt2img"
DEFAULTS = {f"{UNIT_1}/Preprocessor/value": "canny", f"{UNIT_1}/Threshold A/value": 55}
COLOURS = """async (picture) => {
    await picture.decode();
    const canvas = new OffscreenCanvas(picture.naturalWidth, picture.naturalHeight);
    const context = canvas.getContext("2d");
    context.drawImage(picture, 0, 0);
    const data = context.getImageData(0, 0, canvas.width, canvas.height).data, counts = {};
    for (let i = 0; i < data.length; i += 4) {
        const key = `${data[i]},${data[i + 1]},${data[i + 2]}`;
        counts[key] = (counts[key] || 0) + 1;
    }
    return counts;
}"""


@pytest.fixture(scope="module")
def host(webui_path: Path, webui_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """A WebUI with its page and our extension."""
    base = tmp_path_factory.mktemp("webui-page")
    (base / "ui-config.json").write_text(json.dumps(DEFAULTS))
    with webui_host.started(webui_path, base, webui_models, page=True) as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    path = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip(f"no browser: one of {', '.join(BROWSERS)} must be installed")
    with playwright.sync_playwright() as running:
        opened = running.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield opened
        opened.close()


class Page:
    """A freshly loaded page, with our accordion open."""

    def __init__(self, browser: Any, host: Host, tab: str = "txt2img") -> None:
        self.host, self.tab = host, tab
        self.errors: list[str] = []
        self.page = browser.new_page(viewport={"width": 1500, "height": 1500})
        self.page.set_default_timeout(WAIT)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.goto(host.address)
        self.page.wait_for_function("typeof controlstack === 'object' && uiCurrentTab !== null")
        if tab == "img2img":
            self.page.click("#tabs > .tab-nav > button:has-text('img2img')")
        self.page.click(f"#{tab}_controlnet #controlnet > .label-wrap")
        for name, value in (("width", SIZE), ("height", SIZE), ("steps", 3)):
            self.number(f"#{tab}_{name}", value)
        self.number(f"#{tab}_seed", 1)

    def of(self, name: str, unit: int = 0) -> Any:
        """An element of a unit."""
        return self.page.locator(f"#{self.tab}_controlnet_ControlNet-{unit}_{name}").first

    def number(self, selector: str, value: float) -> None:
        self.page.locator(f"{selector} input[type=number]").first.fill(str(value))
        self.page.keyboard.press("Tab")

    def slide(self, name: str, value: float, unit: int = 0) -> None:
        self.of(name, unit).locator("input[type=number]").fill(str(value))
        self.page.keyboard.press("Tab")

    def value(self, name: str, unit: int = 0) -> str:
        return self.of(name, unit).locator("input[type=number], input:not([type])").first.input_value()

    def upload(self, picture: Path, unit: int = 0) -> None:
        self.of("input_image", unit).locator("input[type=file]").set_input_files(picture)
        expect(self.of("controlnet_enable_checkbox", unit).locator("input")).to_be_checked(timeout=WAIT)

    def type(self, label: str, unit: int = 0) -> None:
        self.of("controlnet_type_filter_radio", unit).get_by_label(label, exact=True).check()

    def unit_tab(self, index: int) -> None:
        self.page.locator(f"#{self.tab}_controlnet_tabs > .tab-nav > button").nth(index).click()

    @property
    def badge(self) -> Any:
        return self.page.locator(f"#{self.tab}_controlnet .cnet-badge")

    def generate(self) -> str:
        """The text below the new pictures."""
        info = self.page.locator(f"#html_info_{self.tab}").first
        before = info.inner_text()
        self.page.click(f"#{self.tab}_generate")
        self.page.wait_for_selector(f"#{self.tab}_interrupt", state="hidden")
        if before:
            self.page.wait_for_timeout(SECOND)
        expect(info).to_contain_text("Steps:", timeout=WAIT)
        return info.inner_text()

    def keep(self, name: str) -> None:
        if folder := os.environ.get("WEBUI_SCREENSHOTS"):
            self.page.screenshot(path=str(Path(folder) / f"{name}.png"))

    def close(self) -> None:
        """Nothing of ours may have failed in the browser."""
        self.page.close()
        assert [error for error in self.errors if ITS_OWN not in error] == []


@pytest.fixture
def page(browser: Any, host: Host) -> Iterator[Page]:
    opened = Page(browser, host)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def photograph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bright square on a dark ground."""
    picture = np.full((96, 96, 3), 30, np.uint8)
    picture[24:72, 24:72] = (230, 120, 60)
    path = tmp_path_factory.mktemp("pictures") / "square.png"
    Image.fromarray(picture).save(path)
    return path


def canny(page: Page, photograph: Path, unit: int = 0) -> None:
    page.upload(photograph, unit)
    page.type("Canny", unit)
    expect(page.of("controlnet_model_dropdown", unit).locator("input")).to_have_value(
        re.compile(r"canny \["), timeout=WAIT
    )


def newest(host: Host, kind: str) -> Any:
    found = sorted((host.base / "outputs" / f"{kind}-images").rglob("*.png"), key=lambda each: each.stat().st_mtime_ns)
    return np.array(Image.open(found[-1]).convert("RGB"))


def test_a_unit_from_its_picture_to_the_result(page: Page, photograph: Path) -> None:
    expect(page.badge).to_have_text("")
    canny(page, photograph)
    expect(page.badge).to_have_text("1 unit")
    page.slide("controlnet_threshold_A_slider", 50)
    page.slide("controlnet_control_weight_slider", 0.8)
    page.slide("controlnet_ending_control_step_slider", 0.3)
    expect(page.of("plan")).to_contain_text("fires on 2 of 3 steps", timeout=WAIT)
    page.of("controlnet_trigger_preprocessor").click()
    expect(page.of("generated_image").locator("img")).to_be_visible(timeout=WAIT)
    info = page.generate()
    page.keep("unit")
    assert "Module: canny, Model: canny [" in info and "Weight: 0.8" in info and "Threshold A: 50" in info
    drawn = newest(page.host, "txt2img")
    settings = {
        "module": "canny",
        "model": "canny",
        "weight": 0.8,
        "threshold_a": 50,
        "guidance_end": 0.3,
        "processor_res": 512,
    }
    unit = {"enabled": True, "image": encode(np.array(Image.open(photograph))), **settings}
    asked = {"prompt": "", "negative_prompt": "", "sampler_name": "DPM++ 2M", "seed": 1}
    plain = page.host.draw(**asked).pictures[0]
    assert np.abs(drawn.astype(int) - plain).mean() > 1
    assert (drawn == page.host.draw(unit, **asked).pictures[0]).all(), "the page and the API draw the same"


def test_a_pictures_text_is_pasted_back(page: Page, photograph: Path) -> None:
    canny(page, photograph, 0)
    page.unit_tab(1)
    canny(page, photograph, 1)
    expect(page.badge).to_have_text("2 units")
    unit = "Module: canny, Model: depth, Weight: 0.35, Resize Mode: Just Resize, Processor Res: 256, Threshold A: 30, "
    unit += "Threshold B: 60, Guidance Start: 0.1, Guidance End: 0.9, Pixel Perfect: False, Control Mode: Balanced"
    text = f'a cat\nSteps: 3, Sampler: Euler a, Seed: 5, Size: 64x64, ControlNet 1: "{unit}", Version: 1.10.1'
    page.page.locator("#txt2img_prompt textarea").fill(text)
    page.page.click("#paste")
    expect(page.badge).to_have_text("1 unit", timeout=WAIT)
    expect(page.of("controlnet_enable_checkbox", 1).locator("input")).to_be_checked()
    expect(page.of("controlnet_enable_checkbox", 0).locator("input")).not_to_be_checked()
    expect(page.of("controlnet_model_dropdown", 1).locator("input")).to_have_value(re.compile(r"depth \["))
    numbers = {"control_weight": "0.35", "threshold_A": "30", "threshold_B": "60", "preprocessor_resolution": "256"}
    assert {name: page.value(f"controlnet_{name}_slider", 1) for name in numbers} == numbers
    expect(page.of("controlnet_resize_mode_radio", 1).get_by_label("Just Resize")).to_be_checked()
    assert "Weight: 0.35" in page.generate()


def test_what_is_painted_on_a_picture_is_its_scribble(page: Page, photograph: Path) -> None:
    page.upload(photograph)
    area = page.of("input_image").locator("canvas").last.bounding_box()
    x, y = area["x"] + area["width"] / 2, area["y"] + area["height"] / 2
    page.page.mouse.move(x, y)
    page.page.mouse.down()
    page.page.mouse.move(x + area["width"] / 4, y, steps=5)
    page.page.mouse.up()
    page.page.wait_for_timeout(SECOND)
    page.of("controlnet_trigger_preprocessor").click()
    preview = page.of("generated_image").locator("img")
    expect(preview).to_be_visible(timeout=WAIT)
    colours = preview.evaluate(COLOURS)
    assert colours["0,0,0"] > 1000 and colours["255,255,255"] > 300
    assert colours.get("30,30,30", 0) < 50, "the photograph's ground"


def test_presets_are_saved_loaded_and_deleted(page: Page, photograph: Path) -> None:
    canny(page, photograph)
    page.slide("controlnet_control_weight_slider", 0.45)
    page.slide("controlnet_threshold_B_slider", 222)
    page.of("preset_name").locator("input, textarea").fill("mine (1)")
    page.of("preset_save").click()
    expect(page.of("preset").locator("input")).to_have_value("mine (1)", timeout=WAIT)
    page.keep("preset")
    assert (page.host.base / "controlstack" / "presets" / "mine (1).json").is_file()
    page.unit_tab(2)
    page.of("preset", 2).locator("input").click()
    page.of("preset", 2).locator("li").filter(has_text="mine (1)").click()
    page.of("preset_load", 2).click()
    expect(page.badge).to_have_text("2 units", timeout=WAIT)
    assert page.value("controlnet_control_weight_slider", 2) == "0.45"
    assert page.value("controlnet_threshold_B_slider", 2) == "222"
    page.of("preset_delete", 2).click()
    expect(page.of("preset", 2).locator("input")).to_have_value("", timeout=WAIT)
    assert list((page.host.base / "controlstack" / "presets").iterdir()) == []


def test_a_unit_that_cannot_act_says_why(page: Page, photograph: Path) -> None:
    page.upload(photograph)
    page.page.click("#txt2img_generate")
    expect(page.page.locator("#html_log_txt2img").first).to_contain_text("has no model", timeout=WAIT)


def test_a_preprocessor_shows_its_licence_and_what_it_lacks(page: Page) -> None:
    """When the page is opened with it as a default, and when a control type chooses it."""
    page.unit_tab(1)
    expect(page.of("about", 1)).to_contain_text(find("canny").doc, timeout=WAIT)
    page.unit_tab(0)
    page.type("OpenPose")
    expect(page.of("about")).to_contain_text("Licence of its weights: Apache-2.0.", timeout=WAIT)
    wrong = page.of("about").locator(".cnet-plan-wrong")
    reason = re.compile(r"cannot run here: (it needs onnxruntime|the weights)")
    if wrong.count():  # the host may have everything
        expect(wrong).to_contain_text(reason)
    page.keep("webui-about")


def test_a_folder_makes_a_picture_for_each_of_its_pictures(page: Page, photograph: Path, tmp_path: Path) -> None:
    frames, results = tmp_path / "frames", tmp_path / "results"
    frames.mkdir()
    for name, angle in (("one", 0), ("two", 30)):
        Image.open(photograph).rotate(angle).save(frames / f"{name}.png")
    canny(page, photograph)
    page.of("input_tabs").get_by_role("button", name="Batch", exact=True).click()
    page.of("batch_image_dir").locator("textarea, input").fill(str(frames))
    page.of("batch_output_dir").locator("textarea, input").fill(str(results))
    page.page.wait_for_timeout(SECOND)
    page.generate()
    drawn = [np.array(Image.open(results / f"{name}.png")) for name in ("one", "two")]
    assert sorted(path.name for path in results.iterdir()) == ["one.png", "two.png"]
    assert np.abs(drawn[0].astype(int) - drawn[1]).mean() > 0.5


def test_a_result_is_taken_into_a_unit_of_the_other_tab(browser: Any, host: Host, photograph: Path) -> None:
    page = Page(browser, host)
    page.generate()
    page.page.click("#tabs > .tab-nav > button:has-text('img2img')")
    page.page.click("#img2img_controlnet #controlnet > .label-wrap")
    page.tab = "img2img"
    page.of("controlnet_take_txt2img").click()
    expect(page.of("input_image").locator("img").first).to_be_visible(timeout=WAIT)
    expect(page.badge).to_have_text("1 unit", timeout=WAIT)
    page.of("controlnet_send_dimen_button").click()
    page.keep("img2img")
    expect(page.page.locator("#img2img_width input[type=number]")).to_have_value(str(SIZE), timeout=WAIT)
    page.close()


def test_units_go_with_a_result_to_the_other_tab(page: Page, photograph: Path) -> None:
    canny(page, photograph)
    page.slide("controlnet_control_weight_slider", 0.65)
    page.slide("controlnet_threshold_A_slider", 42)
    page.generate()
    page.page.click("#txt2img_send_to_img2img, #img2img_tab >> visible=true")
    page.tab = "img2img"
    expect(page.badge).to_have_text("1 unit", timeout=WAIT)
    page.page.click("#img2img_controlnet #controlnet > .label-wrap")
    expect(page.of("controlnet_threshold_A_slider")).to_contain_text("Low Threshold", timeout=WAIT)
    assert page.value("controlnet_threshold_A_slider") == "42"
    assert page.value("controlnet_control_weight_slider") == "0.65"


def test_axes_of_the_plot_change_a_unit(host: Host, photograph: Path) -> None:
    info = next(each for each in host.get("sdapi/v1/script-info") if each["name"] == "x/y/z plot")
    axes = info["args"][0]["choices"]
    values = {each["label"]: each["value"] for each in info["args"]}
    values |= {"X type": axes.index("[ControlNet] Weight"), "X values": "0, 1", "Y type": 0, "Z type": 0}
    values["Include Sub Images"] = True
    unit = {"enabled": True, "image": encode(np.array(Image.open(photograph))), "module": "canny", "model": "canny"}
    script = {"script_name": "x/y/z plot", "script_args": [values[each["label"]] for each in info["args"]]}
    cells = host.draw(unit, **script).pictures[1:3]
    plain, full = host.draw().pictures[0], host.draw(unit).pictures[0]
    assert (cells[0] == plain).all() and (cells[1] == full).all() and (plain != full).any()


def test_a_looping_unit_draws_on_its_last_result(host: Host, photograph: Path) -> None:
    unit = {"enabled": True, "module": "none", "model": "canny", "save_detected_map": False}
    first, second = host.draw(
        {**unit, "image": encode(np.array(Image.open(photograph))), "loopback": True},
        n_iter=2, override_settings={"return_grid": False},
    ).pictures  # fmt: skip
    assert (second == host.draw({**unit, "image": encode(first)}, seed=2).pictures[0]).all()
    assert (second != host.draw({**unit, "image": encode(second)}, seed=2).pictures[0]).any()


def test_each_unit_has_its_own_defaults(page: Page) -> None:
    page.unit_tab(1)
    low = page.of("controlnet_threshold_A_slider", 1)
    expect(low).to_contain_text("Low Threshold", timeout=WAIT)
    assert low.locator("input[type=number]").input_value() == "55"
    page.unit_tab(0)
    expect(page.of("controlnet_preprocessor_dropdown").locator("input")).to_have_value("none")
    expect(page.of("controlnet_threshold_A_slider")).to_be_hidden()


def test_settings_defaults_and_axes_are_there(host: Host) -> None:
    options = host.get("sdapi/v1/options")
    assert options["control_net_unit_count"] == 3 and options["control_net_sync_field_args"] is True
    defaults = json.loads((host.base / "ui-config.json").read_text())
    assert defaults["customscript/controlnet.py/txt2img/Control Weight/value"] == 1
    assert defaults["customscript/controlnet.py/unit 2/img2img/Enable/value"] is False
    scripts = host.get("sdapi/v1/script-info")
    plot = next(each for each in scripts if each["name"] == "x/y/z plot" and not each["is_img2img"])
    assert {"[ControlNet] Weight", "[ControlNet 2] Weight Curve"} <= set(plot["args"][0]["choices"])
