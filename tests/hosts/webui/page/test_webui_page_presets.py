"""Presets on the page of a real WebUI and of a real Forge: kept, found everywhere, honest about what is gone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from webui_page import A1111, FORGE, SECOND, Page, expect

both = pytest.mark.parametrize("page_host", [A1111, FORGE], indirect=True)


@pytest.fixture
def folder(page: Page) -> Iterator[Path]:
    """Where the host keeps presets; empty before and after."""
    found = page.host.base / "controlstack" / "presets"
    assert not list(found.glob("*"))
    yield found
    for path in found.glob("*"):
        path.unlink()


def save(page: Page, name: str, unit: int = 0) -> None:
    page.of("preset_name", unit).locator("input, textarea").fill(name)
    page.of("preset_save", unit).click()


def choose(page: Page, name: str, unit: int = 0) -> None:
    """As a hand does it, which comes near before it clicks: then the list is read."""
    page.of("preset", unit).hover()
    page.page.wait_for_timeout(SECOND)
    page.choose("preset", name, unit)


def chosen(page: Page, unit: int = 0) -> Any:
    return page.of("preset", unit).locator("input").first


@both
def test_presets_are_saved_loaded_and_deleted(page: Page, photograph: Path, folder: Path) -> None:
    page.canny(photograph)
    page.slide("control_weight", 0.45)
    page.slide("threshold_B", 222)
    save(page, "mine (1)")
    expect(chosen(page)).to_have_value("mine (1)")
    assert (folder / "mine (1).json").is_file()
    page.unit_tab(2)
    choose(page, "mine (1)", 2)
    page.of("preset_load", 2).click()
    expect(page.badge).to_have_text("2 units")
    page.has_model("canny", 2)
    for name, value in (("control_weight", "0.45"), ("threshold_B", "222")):
        expect(page.of(f"controlnet_{name}_slider", 2).locator("input[type=number]")).to_have_value(value)
    page.of("preset_delete", 2).click()
    expect(chosen(page, 2)).to_have_value("")
    assert not list(folder.iterdir())
    page.unit_tab(0)
    page.of("preset_load").click()
    expect(page.of("preset_said")).to_contain_text("there is no preset 'mine (1)'")


@both
def test_a_list_shows_what_another_browser_saved(page: Page, photograph: Path, folder: Path) -> None:
    other = Page(page.page.context.browser.new_page(), page.host, "img2img")
    page.canny(photograph)
    save(page, "Grün 漢字.v2")
    expect(chosen(page)).to_have_value("Grün 漢字.v2")
    choose(other, "Grün 漢字.v2")
    other.of("preset_load").click()
    other.has_model("canny")
    other.slide("control_weight", 0.3)
    save(other, "second")
    expect(chosen(other)).to_have_value("second")
    page.unit_tab(1)
    page.of("preset", 1).hover()
    page.page.wait_for_timeout(SECOND)
    assert sorted(page.options("preset", 1)) == ["Grün 漢字.v2", "second"]
    other.close()


@both
def test_a_preset_of_a_model_that_is_gone_says_so(page: Page, photograph: Path, folder: Path) -> None:
    page.canny(photograph)
    page.slide("control_weight", 0.45)
    save(page, "old")
    expect(chosen(page)).to_have_value("old")
    content = json.loads((folder / "old.json").read_text())
    content["unit"]["model"] = "vanished [01234567]"
    (folder / "old.json").write_text(json.dumps(content))
    page.of("preset_load").click()
    said = page.of("said").locator(".cnet-plan-wrong")
    expect(said).to_contain_text("vanished")
    expect(page.of("controlnet_model_dropdown").locator("input").first).to_have_value("None")
    page.choose("controlnet_model_dropdown", "canny [")
    expect(said).to_have_count(0)
    (folder / "old.json").write_text("{")
    page.of("preset_load").click()
    expect(page.of("preset_said")).to_contain_text("cannot be read")


@both
@pytest.mark.parametrize("name", ["../../evil", "con", ".hidden", ""])
def test_a_name_that_is_no_file_name_is_refused(page: Page, folder: Path, name: str) -> None:
    save(page, name)
    expect(page.of("preset_said")).to_contain_text("a preset is called")
    assert not list(folder.glob("*")) and not (page.host.base / "evil.json").exists()


@both
def test_a_pasted_text_with_a_model_that_is_gone_says_so_in_its_unit(page: Page) -> None:
    unit = "Module: canny, Model: vanished [01234567], Weight: 1, Resize Mode: Just Resize"
    text = f'a cat\nSteps: 3, Sampler: Euler a, Seed: 5, Size: 64x64, ControlNet 0: "{unit}", Version: 1.10.1'
    page.page.locator("#txt2img_prompt textarea").fill(text)
    page.page.click("#paste")
    expect(page.of("said")).to_contain_text("vanished")
    page.page.locator("#txt2img_prompt textarea").fill(text.replace("vanished [01234567]", "canny"))
    page.page.click("#paste")
    page.has_model("canny")
    expect(page.of("said").locator(".cnet-plan-wrong")).to_have_count(0)
