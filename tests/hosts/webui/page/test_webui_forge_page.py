"""Our units on the pages of Forge, whose gradio is another one, and of its relatives, in a real browser."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import browser as chromium
import forge_world
import numpy as np
import pytest
import webui_host
from PIL import Image
from webui_host import Drawing, Host, encode

expect = pytest.importorskip(
    "playwright.sync_api", reason="no playwright: the page needs a browser to be seen in"
).expect

WAIT = 60_000  # milliseconds for the host on a busy machine
SIZE, STEPS = 64, 10
UNIT = "#txt2img_controlnet_ControlNet-{}_{}"
# A range of the first half: six steps as sd-webui-controlnet counts, fewer along the noise schedule.
END = 0.5
UNIT_TEXT = (
    "Module: canny, Model: depth, Weight: 0.35, Resize Mode: Just Resize, Processor Res: 256, Threshold A: 30, "
    "Threshold B: 60, Guidance Start: 0.1, Guidance End: 0.9, Pixel Perfect: False, Control Mode: Balanced"
)
TEXT = f'a cat\nSteps: 3, Sampler: Euler a, Seed: 5, Size: 64x64, ControlNet 1: "{UNIT_TEXT}", Version: '


@pytest.fixture(scope="module")
def forge(program: Path, forge_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """The running program with its page and our extension, its own ControlNet switched off."""
    base = tmp_path_factory.mktemp("forge-page")
    forge_world.prepare(program, base, forge_models, built_in=False)
    # With its data elsewhere, Forge does not serve its own scripts to the page by itself.
    flags = (*forge_world.FLAGS, "--gradio-allowed-path", str(program))
    with webui_host.started(program, base, forge_models, flags=flags, page=True) as host:
        yield host


@pytest.fixture
def page(forge: Host) -> Iterator[Any]:
    """Its page, with our accordion open."""
    errors: list[str] = []
    with chromium.page(1500, 1700) as opened:
        opened.set_default_timeout(WAIT)
        opened.on("pageerror", lambda error: errors.append(str(error)))
        opened.goto(forge.address)
        opened.wait_for_function("typeof controlstack === 'object' && uiCurrentTab !== null")
        opened.wait_for_selector("#txt2img_controlnet .cnet-badge", state="attached")
        opened.click("#txt2img_controlnet #controlnet > .label-wrap")
        for name, value in (("width", SIZE), ("height", SIZE), ("steps", STEPS)):
            fill(opened, f"#txt2img_{name} input[type=number]", value)
        fill(opened, "#txt2img_seed input", 1)
        yield opened
    assert [error for error in errors if "controlstack" in error.lower()] == []


def fill(page: Any, selector: str, value: float) -> None:
    page.locator(selector).first.fill(str(value))
    page.keyboard.press("Tab")


def of(page: Any, name: str, unit: int = 0) -> Any:
    return page.locator(UNIT.format(unit, name)).first


def generate(page: Any) -> str:
    """The text below the new picture."""
    page.click("#txt2img_generate")
    info = page.locator("#html_info_txt2img").first
    expect(info).to_contain_text("Steps:", timeout=WAIT)
    return info.inner_text()


def api(host: Host, *units: dict[str, Any], sampler: str) -> Drawing:
    """What a client gets for the page's settings."""
    settings = {"prompt": "", "negative_prompt": "", "steps": STEPS, "seed": 1, "sampler_name": sampler}
    return host.draw(*units, width=SIZE, height=SIZE, **settings)


def newest(host: Host) -> np.ndarray:
    found = host.base.glob("output*/txt2img-images/**/*.png")  # the programs name the folder differently
    return np.array(Image.open(max(found, key=lambda each: each.stat().st_mtime_ns)).convert("RGB"))


def test_a_unit_from_its_picture_to_the_result(page: Any, forge: Host, tmp_path: Path) -> None:
    picture = np.full((96, 96, 3), 30, np.uint8)
    picture[24:72, 24:72] = (230, 120, 60)
    photograph = tmp_path / "square.png"
    Image.fromarray(picture).save(photograph)
    expect(page.locator(".cnet-badge").first).to_have_text("")
    of(page, "input_image").locator("input[type=file]").first.set_input_files(photograph)
    expect(of(page, "controlnet_enable_checkbox").locator("input")).to_be_checked(timeout=WAIT)
    expect(page.locator(".cnet-badge").first).to_have_text("1 unit")
    of(page, "controlnet_type_filter_radio").get_by_label("Canny", exact=True).check()
    expect(of(page, "controlnet_model_dropdown").locator("input")).to_have_value(re.compile(r"canny \["), timeout=WAIT)
    expect(of(page, "range_basis_radio").get_by_label("noise")).to_be_checked()
    fill(page, UNIT.format(0, "controlnet_ending_control_step_slider") + " input[type=number]", END)
    expect(of(page, "plan")).to_contain_text(f"of {STEPS} steps", timeout=WAIT)
    of(page, "controlnet_trigger_preprocessor").click()
    expect(of(page, "generated_image").locator("img").first).to_be_visible(timeout=WAIT)
    info = generate(page)
    chromium.shoot(page, tmp_path, "forge-unit")
    assert "Module: canny, Model: canny [" in info and f"Guidance End: {END}" in info and "Range Basis: noise" in info
    sampler = re.search(r"Sampler: ([^,]+)", info)
    assert sampler is not None
    unit = {"enabled": True, "image": encode(picture), "module": "canny", "model": "canny", "guidance_end": END}
    drawn, same = newest(forge), api(forge, unit, sampler=sampler[1])
    other = api(forge, {**unit, "range_basis": "webui"}, sampler=sampler[1])
    assert (drawn == same.pictures[0]).all(), "the page and the API draw the same"
    assert (drawn != other.pictures[0]).any(), "another basis is another picture"


@pytest.mark.parametrize(("version", "basis"), [("f2.0.1v1.10.1", "noise"), ("v1.10.1", "webui")])
def test_a_pictures_text_is_pasted_back(page: Any, version: str, basis: str) -> None:
    page.locator("#txt2img_prompt textarea").fill(TEXT + version)
    page.click("#paste")
    expect(page.locator(".cnet-badge").first).to_have_text("1 unit", timeout=WAIT)
    page.locator("#txt2img_controlnet_tabs > .tab-nav > button").nth(1).click()
    expect(of(page, "controlnet_enable_checkbox", 1).locator("input")).to_be_checked()
    expect(of(page, "controlnet_model_dropdown", 1).locator("input")).to_have_value(re.compile(r"depth \["))
    numbers = {"control_weight": "0.35", "threshold_A": "30", "threshold_B": "60", "preprocessor_resolution": "256"}
    for name, value in numbers.items():
        box = of(page, f"controlnet_{name}_slider", 1).locator("input[type=number]")
        expect(box).to_have_value(value, timeout=WAIT)
    expect(of(page, "controlnet_resize_mode_radio", 1).get_by_label("Just Resize")).to_be_checked()
    expect(of(page, "range_basis_radio", 1).get_by_label(basis)).to_be_checked()
