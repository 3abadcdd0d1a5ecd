"""The page of a real WebUI and of a real Forge as a user sees it, in a real browser: units, texts, and what it says.

CONTROLSTACK_SCREENSHOTS names a folder for pictures of it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from controlstack.preprocessors import find
from webui_host import Host, encode
from webui_page import A1111, FORGE, Page, differ, expect, read, shoot

both = pytest.mark.parametrize("page_host", [A1111, FORGE], indirect=True)
forge = pytest.mark.parametrize("page_host", [FORGE], indirect=True)
UNIT_TEXT = (
    "Module: canny, Model: depth, Weight: 0.35, Resize Mode: Just Resize, Processor Res: 256, Threshold A: 30, "
    "Threshold B: 60, Guidance Start: 0.1, Guidance End: 0.9, Pixel Perfect: False, Control Mode: Balanced"
)
TEXT = f'a cat\nSteps: 3, Sampler: Euler a, Seed: 5, Size: 64x64, ControlNet 1: "{UNIT_TEXT}", Version: 1.10.1'


@both
def test_a_unit_from_its_picture_to_the_result(page: Page, photograph: Path, tmp_path: Path) -> None:
    expect(page.badge).to_have_text("")
    page.canny(photograph)
    expect(page.badge).to_have_text("1 unit")
    page.slide("threshold_A", 50)
    page.slide("control_weight", 0.8)
    page.slide("ending_control_step", 0.3)
    expect(page.of("plan")).to_contain_text(re.compile(r"fires on \d of 3 steps"))
    page.preview()
    info = page.generate()
    shoot(page, tmp_path, "unit")
    assert "Module: canny, Model: canny [" in info and "Weight: 0.8" in info and "Threshold A: 50" in info
    (drawn,) = page.newest()
    settings = {"module": "canny", "model": "canny", "weight": 0.8, "threshold_a": 50, "guidance_end": 0.3}
    unit = {"enabled": True, "image": encode(read(photograph)), "processor_res": 512, **settings}
    assert differ(drawn, page.same(info).pictures[0]) > 1
    assert (drawn == page.same(info, unit).pictures[0]).all(), "the page and the API draw the same"


@forge
def test_a_range_counts_along_the_noise_in_forge(page: Page, photograph: Path) -> None:
    page.number("#txt2img_steps", 10)
    page.canny(photograph)
    expect(page.of("range_basis_radio").get_by_label("noise")).to_be_checked()
    page.slide("ending_control_step", 0.5)  # six steps as sd-webui-controlnet counts, fewer along the noise
    info = page.generate()
    assert "Guidance End: 0.5" in info and "Range Basis: noise" in info
    (drawn,) = page.newest()
    unit = {"enabled": True, "image": encode(read(photograph)), "module": "canny", "model": "canny"}
    unit |= {"guidance_end": 0.5}
    assert (drawn == page.same(info, unit, steps=10).pictures[0]).all()
    assert (drawn != page.same(info, {**unit, "range_basis": "webui"}, steps=10).pictures[0]).any()


@both
def test_a_pictures_text_is_pasted_back(page: Page, photograph: Path) -> None:
    page.canny(photograph, 0)
    page.unit_tab(1)
    page.canny(photograph, 1)
    expect(page.badge).to_have_text("2 units")
    page.page.locator("#txt2img_prompt textarea").fill(TEXT)
    page.page.click("#paste")
    expect(page.badge).to_have_text("1 unit")
    expect(page.of("controlnet_enable_checkbox", 1).locator("input")).to_be_checked()
    expect(page.of("controlnet_enable_checkbox", 0).locator("input")).not_to_be_checked()
    page.has_model("depth", 1)
    numbers = {"control_weight": "0.35", "threshold_A": "30", "threshold_B": "60", "preprocessor_resolution": "256"}
    for name, value in numbers.items():
        box = page.of(f"controlnet_{name}_slider", 1).locator("input[type=number]")
        expect(box).to_have_value(value)
    expect(page.of("controlnet_resize_mode_radio", 1).get_by_label("Just Resize")).to_be_checked()
    expect(page.of("range_basis_radio", 1).get_by_label("webui")).to_be_checked()  # as the text's version means it
    assert "Weight: 0.35" in page.generate()


@both
def test_a_unit_that_cannot_act_says_why(page: Page, photograph: Path) -> None:
    page.upload(photograph)
    assert "has no model" in page.refused()
    page.type("Canny")
    page.has_model("canny")
    assert "Module: canny" in page.generate(), "the next picture is drawn"


@both
def test_a_preprocessor_shows_its_licence_and_what_it_lacks(page: Page) -> None:
    """When the page is opened with it as a default, and when a control type chooses it."""
    if not page.forge:
        page.unit_tab(1)
        expect(page.of("about", 1)).to_contain_text(find("canny").doc)
        page.unit_tab(0)
    page.type("OpenPose")
    expect(page.of("about")).to_contain_text("Licence of its weights: Apache-2.0.")
    wrong = page.of("about").locator(".cnet-plan-wrong")
    reason = re.compile(r"cannot run here: (it needs onnxruntime|the weights)")
    if wrong.count():  # the host may have everything
        expect(wrong).to_contain_text(reason)


@both
def test_units_go_with_a_result_to_the_other_tab(page: Page, photograph: Path) -> None:
    page.canny(photograph)
    page.slide("control_weight", 0.65)
    page.slide("threshold_A", 42)
    page.generate()
    page.page.click("#txt2img_send_to_img2img, #img2img_tab >> visible=true")
    page.tab = "img2img"
    expect(page.badge).to_have_text("1 unit")
    page.page.click("#img2img_controlnet #controlnet > .label-wrap")
    expect(page.of("controlnet_threshold_A_slider")).to_contain_text("Low Threshold")
    assert page.value("controlnet_threshold_A_slider") == "42"
    assert page.value("controlnet_control_weight_slider") == "0.65"


def test_each_unit_has_its_own_defaults(page: Page) -> None:
    page.unit_tab(1)
    low = page.of("controlnet_threshold_A_slider", 1)
    expect(low).to_contain_text("Low Threshold")
    assert low.locator("input[type=number]").input_value() == "55"
    page.unit_tab(0)
    expect(page.of("controlnet_preprocessor_dropdown").locator("input")).to_have_value("none")
    expect(page.of("controlnet_threshold_A_slider")).to_be_hidden()


@both
def test_a_unit_is_reached_and_set_by_keys_alone(page: Page) -> None:
    """The keyboard reaches each widget, and the focus can be seen."""
    page.of("controlnet_enable_checkbox").locator("input").focus()
    page.page.keyboard.press("Space")
    expect(page.badge).to_have_text("1 unit")
    focused = "document.activeElement.closest('[id*=_controlnet_ControlNet-0_]')?.id.split('ControlNet-0_')[1]"
    reached: list[str] = []
    for _ in range(40):  # gradio 4 stops at each round button
        page.page.keyboard.press("Tab")
        reached.append(page.page.evaluate(focused))
    names = [f"controlnet_{each}" for each in ("low_vram_checkbox", "pixel_perfect_checkbox", "preprocessor_dropdown",
                                               "trigger_preprocessor", "model_dropdown", "refresh_models")]  # fmt: skip
    assert [each for each in reached if each in names] == names
    page.of("controlnet_type_filter_radio").get_by_label("All", exact=True).focus()
    for key in ("Tab", "Space") if page.forge else ("ArrowRight",):
        page.page.keyboard.press(key)
    page.has_model("canny")


@both
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_our_words_can_be_read_in(page: Page, photograph: Path, theme: str) -> None:
    """The contrast of what we colour is that of WCAG 2.1 (AA), 4.5."""
    page.page.evaluate("(dark) => document.body.classList.toggle('dark', dark)", theme == "dark")
    page.canny(photograph)
    page.more()
    page.write("weight_curve", "nonsense")
    expect(page.of("plan").locator(".cnet-plan-wrong")).to_be_visible()
    for selector in (".cnet-badge", "button.cnet-unit-active", ".cnet-plan-wrong", ".cnet-plan-line"):
        assert page.contrast(f"#txt2img_controlnet {selector}") >= 4.5, selector


@both
def test_ten_units_draw_together(page: Page, photograph: Path) -> None:
    page.host.post("sdapi/v1/options", {"control_net_unit_count": 10})
    try:
        page.reload()
        for unit in range(10):
            page.unit_tab(unit)
            page.canny(photograph, unit)
            page.slide("control_weight", 0.1, unit)
        expect(page.badge).to_have_text("10 units")
        info = page.generate()
        assert all(f"ControlNet {unit}: " in info for unit in range(10))
        (drawn,) = page.newest()
        tenth = {"enabled": True, "image": encode(read(photograph)), "weight": 0.1}
        tenth |= {"module": "canny", "model": "canny"}
        assert (drawn == page.same(info, *[tenth] * 10).pictures[0]).all()
    finally:
        page.host.post("sdapi/v1/options", {"control_net_unit_count": 3})
        page.reload()


def test_axes_of_the_plot_change_a_unit(webui_with_page: Host, photograph: Path) -> None:
    info = next(each for each in webui_with_page.get("sdapi/v1/script-info") if each["name"] == "x/y/z plot")
    axes = info["args"][0]["choices"]
    values = {each["label"]: each["value"] for each in info["args"]}
    values |= {"X type": axes.index("[ControlNet] Weight"), "X values": "0, 1", "Y type": 0, "Z type": 0}
    values["Include Sub Images"] = True
    unit = {"enabled": True, "image": encode(read(photograph)), "module": "canny", "model": "canny"}
    script = {"script_name": "x/y/z plot", "script_args": [values[each["label"]] for each in info["args"]]}
    cells = webui_with_page.draw(unit, **script).pictures[1:3]
    plain, full = webui_with_page.draw().pictures[0], webui_with_page.draw(unit).pictures[0]
    assert (cells[0] == plain).all() and (cells[1] == full).all() and (plain != full).any()


def test_a_looping_unit_draws_on_its_last_result(webui_with_page: Host, photograph: Path) -> None:
    unit = {"enabled": True, "module": "none", "model": "canny", "save_detected_map": False}
    first, second = webui_with_page.draw(
        {**unit, "image": encode(read(photograph)), "loopback": True},
        n_iter=2, override_settings={"return_grid": False},
    ).pictures  # fmt: skip
    assert (second == webui_with_page.draw({**unit, "image": encode(first)}, seed=2).pictures[0]).all()
    assert (second != webui_with_page.draw({**unit, "image": encode(second)}, seed=2).pictures[0]).any()


def test_settings_defaults_and_axes_are_there(webui_with_page: Host) -> None:
    options = webui_with_page.get("sdapi/v1/options")
    assert options["control_net_unit_count"] == 3 and options["control_net_sync_field_args"] is True
    defaults = json.loads((webui_with_page.base / "ui-config.json").read_text())
    assert defaults["customscript/controlnet.py/txt2img/Control Weight/value"] == 1
    assert defaults["customscript/controlnet.py/unit 2/img2img/Enable/value"] is False
    scripts = webui_with_page.get("sdapi/v1/script-info")
    plot = next(each for each in scripts if each["name"] == "x/y/z plot" and not each["is_img2img"])
    assert {"[ControlNet] Weight", "[ControlNet 2] Weight Curve"} <= set(plot["args"][0]["choices"])


def test_a_start_of_forge_makes_few_widgets_and_listeners(forge_with_page: Host) -> None:
    """Each costs a part of a millisecond there, and there are three units on two tabs."""
    config = forge_with_page.get("config")
    widgets = {each["id"]: each for each in config["components"]}
    ours = set(_below(config["layout"], widgets, "txt2img_controlnet"))
    heard = [each for each in config["dependencies"] if ours & {*(target[0] for target in each["targets"])}]
    assert 3 * 60 < len(ours) <= 3 * 105  # 3 units
    assert 3 * 10 < len(heard) <= 3 * 30
    described = {json.dumps(each["api_info"]) for each in widgets.values() if each["type"] == "image"}
    assert len(described) == 1, "ours are described as the program's own pictures are"


def _below(
    node: dict[str, Any], widgets: dict[int, dict[str, Any]], elem_id: str, found: bool = False
) -> Iterator[int]:
    """The ids of what lies in the container of that name, in gradio's tree of a page."""
    found = found or widgets.get(node["id"], {}).get("props", {}).get("elem_id") == elem_id
    if found:
        yield node["id"]
    for each in node.get("children", ()):
        yield from _below(each, widgets, elem_id, found)
