"""The page in a real browser: a newcomer's walk, units added and moved, errors, a stop, keys alone, no way out."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from skimage import data

# Playwright leaves pipes to the garbage collector.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
PATIENCE = 300_000  # milliseconds: the machine may be busy
WIDE, NARROW = {"width": 1400, "height": 1000}, {"width": 390, "height": 844}


@pytest.fixture(scope="session")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photo") / "cat.png"
    Image.fromarray(data.chelsea()).save(path)
    return path


class Page:
    """The page as somebody sees it."""

    def __init__(self, page: Any, url: str) -> None:
        self.page, self.reached, self.broken = page, [], []
        page.set_default_timeout(PATIENCE)
        page.on("request", lambda each: self.reached.append(each.url))
        page.on("pageerror", lambda each: self.broken.append(str(each)))
        page.goto(url)
        page.wait_for_selector("#unit-1-image")

    def drop(self, photo: Path, number: int = 1) -> None:
        self.page.set_input_files(f"#unit-{number}-image input[type=file]", str(photo))
        self.page.wait_for_selector(f"#unit-{number}-image img")

    def choose(self, name: str, option: str, number: int = 1) -> None:
        self.page.click(f"#unit-{number}-{name} input")
        self.page.get_by_role("option", name=option, exact=True).click()

    def text(self, where: str) -> str:
        return self.page.inner_text(where)

    def says(self, where: str, sentence: str) -> None:
        found = self.page.locator(where).get_by_text(re.compile(sentence)).first
        found.wait_for(timeout=PATIENCE)

    def long_run(self) -> None:
        """Begin a run that does not end by itself while somebody looks for the button that stops it."""
        self.page.locator("#steps input[type=number]").fill("150")
        self.page.locator("#batch input[type=number]").fill("64")
        self.page.click("#generate")

    @property
    def units(self) -> int:
        return self.page.locator(".cs-card").count()


@pytest.fixture(params=[WIDE, NARROW], ids=["wide", "narrow"])
def size(request: Any) -> Any:
    return request.param


@pytest.fixture
def opened(served: Any, chromium: Any) -> Iterator[Page]:
    context = chromium.new_context(viewport=WIDE, locale="en")
    page = Page(context.new_page(), served.url)
    yield page
    context.close()
    assert page.broken == []
    assert [url for url in page.reached if not url.startswith((served.url, "data:", "blob:"))] == []


def test_a_newcomers_walk(served: Any, chromium: Any, photo: Path, size: Any) -> None:
    context = chromium.new_context(viewport=size, locale="en")
    page = Page(context.new_page(), served.url)
    page.drop(photo)
    page.choose("type", "Canny")
    page.says("#unit-1-plan", "acts on 20 of 20 steps")
    page.page.wait_for_selector("#unit-1-hint img")
    page.page.click("#generate")
    page.says("#report", "1 picture in")
    picture = page.page.locator("#gallery img").first
    picture.wait_for()
    assert picture.evaluate("each => each.naturalWidth") == 128
    assert page.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    context.close()
    assert page.broken == []


def test_a_slider_of_the_preprocessor_moves_the_hint(opened: Page, photo: Path) -> None:
    opened.drop(photo)
    opened.choose("type", "Canny")
    opened.page.wait_for_selector("#unit-1-hint img")
    before = opened.page.get_attribute("#unit-1-hint img", "src")
    opened.page.locator("#unit-1-number-1 input[type=range]").focus()
    opened.page.keyboard.press("End")
    opened.page.wait_for_function(
        "before => document.querySelector('#unit-1-hint img')?.getAttribute('src') !== before", arg=before
    )


def test_the_range_says_on_how_many_steps(opened: Page) -> None:
    opened.page.locator("#unit-1-range .cs-range-end").focus()
    for _ in range(40):
        opened.page.keyboard.press("ArrowLeft")
    opened.says("#unit-1-plan", "acts on 12 of 20 steps")


def test_a_control_type_without_a_model_says_so_in_the_list_and_on_the_card(opened: Page) -> None:
    opened.choose("type", "Revision – for SDXL")
    opened.says("#unit-1-plan", "has no model: choose one")
    opened.choose("type", "Canny")
    opened.says("#unit-1-plan", "acts on 20 of 20 steps")


def test_units_are_added_doubled_moved_and_removed(opened: Page, photo: Path) -> None:
    opened.drop(photo)
    opened.choose("type", "Depth")
    opened.page.click("#add-unit")
    opened.page.wait_for_selector("#unit-2-image")
    assert opened.page.locator("#unit-1-image img").count() == 1  # what was entered stays
    opened.page.click("#unit-1-duplicate")
    opened.page.wait_for_selector("#unit-3-image")
    opened.page.wait_for_selector("#unit-2-image img")
    opened.page.click("#unit-2-down")
    opened.page.wait_for_selector("#unit-3-image img")
    assert opened.page.locator("#unit-2-image img").count() == 0
    opened.page.click("#unit-2-remove")
    opened.page.wait_for_selector("#unit-3", state="detached")
    assert opened.units == 2
    assert opened.page.locator("#unit-2-image img").count() == 1


def test_a_card_is_dragged_by_its_grip(opened: Page) -> None:
    opened.page.click("#example-5")
    opened.page.wait_for_selector("#unit-2-image img")
    assert opened.page.input_value("#unit-1-model input").startswith("canny")
    opened.page.locator("#unit-2 .cs-grip").scroll_into_view_if_needed()
    grip, first = (opened.page.locator(each).bounding_box() for each in ("#unit-2 .cs-grip", "#unit-1"))
    opened.page.mouse.move(grip["x"] + 4, grip["y"] + 4)
    opened.page.mouse.down()
    opened.page.mouse.move(first["x"] + 9, first["y"] + first["height"] - 40, steps=4)
    opened.page.mouse.up()
    opened.page.wait_for_function("document.querySelector('#unit-1-model input').value.startsWith('color')")
    opened.page.wait_for_function("document.querySelector('#unit-2-model input').value.startsWith('canny')")


def test_an_automatic_prompt_is_offered_where_a_model_is_here(opened: Page) -> None:
    opened.page.get_by_role("button", name="More words").click()
    button = opened.page.locator("#describe")
    button.wait_for()
    lacks = "controlstack get Salesforce/blip" in opened.page.locator("#describe-about").inner_text()
    assert button.is_disabled() == lacks


def test_on_a_phone_the_button_is_in_sight(served: Any, chromium: Any) -> None:
    context = chromium.new_context(viewport=NARROW, locale="en")
    page = Page(context.new_page(), served.url)
    box = page.page.locator("#generate").bounding_box()
    context.close()
    assert 0 < box["y"] < box["y"] + box["height"] <= NARROW["height"]


def test_an_error_stands_beside_the_unit_that_caused_it(opened: Page, photo: Path) -> None:
    opened.drop(photo)
    opened.page.click("#add-unit")
    opened.page.wait_for_selector("#unit-2-image")
    opened.page.click("#generate")
    opened.says("#unit-2-message", "Unit 2: it has no picture")
    assert opened.page.locator("#unit-1-message [role=alert]").count() == 0


def test_a_stop_stops(opened: Page) -> None:
    opened.page.locator("#unit-1-enabled input").uncheck()
    opened.long_run()
    opened.page.wait_for_selector("#progress progress[value]")
    opened.page.click("#stop")
    opened.says("#report", "Stopped")


def test_a_comparison_and_a_grid(opened: Page) -> None:
    opened.page.click("#example-1")
    opened.page.wait_for_selector("#unit-1-image img")
    opened.page.locator("#steps input[type=number]").fill("3")
    opened.page.get_by_role("button", name="Compare", exact=False).first.click()
    opened.page.click("#compare-units")
    opened.page.get_by_text("unit 1 alone").first.wait_for()
    opened.page.click("#axis-x input")
    opened.page.get_by_role("option", name="unit 1: weight", exact=True).click()
    opened.page.fill("#axis-x-values textarea, #axis-x-values input", "0; 1")
    opened.page.click("#draw-grid")
    opened.page.get_by_text("unit 1: weight 1").first.wait_for()
    opened.says("#report", "2 pictures in")
    assert opened.page.locator("#files a[download]").count() == 2
    names = {link.get_attribute("download") for link in opened.page.locator("#files a[download]").all()}
    assert names == {"00001.png", "00002.png"}


def test_a_picture_gives_its_settings_back(opened: Page, tmp_path: Path) -> None:
    opened.page.click("#example-4")
    opened.page.wait_for_selector("#unit-1-image img")
    opened.page.fill("#prompt textarea", "a red square")
    opened.page.locator("#steps input[type=number]").fill("4")
    opened.page.click("#generate")
    opened.says("#report", "1 picture in")
    with opened.page.expect_download() as got:
        opened.page.locator("#files a").first.click()
    got.value.save_as(tmp_path / "drawn.png")
    opened.page.reload()
    opened.page.wait_for_selector("#unit-1-image")
    opened.page.get_by_role("button", name="Settings from a picture").click()
    opened.page.set_input_files("#restore-file input[type=file]", str(tmp_path / "drawn.png"))
    opened.says("#remarks", "The settings are in place")
    opened.page.wait_for_selector("#unit-1-image img")
    assert opened.page.input_value("#prompt textarea") == "a red square"
    assert opened.page.input_value("#steps input[type=number]") == "4"
    assert opened.page.input_value("#unit-1-model input") == "color · ControlNet"


def test_the_settings_go_along_as_text(opened: Page) -> None:
    opened.page.click("#example-1")
    opened.page.wait_for_selector("#unit-1-image img")
    opened.page.get_by_role("button", name="Take the settings along").click()
    opened.page.click("#show-text")
    opened.page.wait_for_function("document.querySelector('#text textarea').value.startsWith('controlstack generate')")
    opened.page.get_by_label("Python").check()
    opened.page.click("#show-text")
    opened.page.wait_for_function("document.querySelector('#text textarea').value.startsWith('import controlstack')")


def test_keys_alone_reach_and_press_the_button(opened: Page) -> None:
    opened.page.locator("#unit-1-enabled input").uncheck()
    opened.page.locator("#steps input[type=number]").fill("2")
    opened.page.locator("#prompt textarea").focus()
    for _ in range(120):
        opened.page.keyboard.press("Tab")
        if opened.page.evaluate("document.activeElement?.id") == "generate":
            break
    opened.page.keyboard.press("Enter")
    opened.says("#report", "1 picture in")


@pytest.mark.parametrize(
    ("locale", "word", "plan", "report"),
    [
        ("de", "Bild erzeugen", "wirkt auf 20 von 20 Schritten", "1 Bild in .* Startwert"),
        ("zh-CN", "生成", "在 20 步中的 20 步起作用", "1 张图.*种子"),
    ],
)
def test_the_page_speaks_the_visitors_language(
    served: Any, chromium: Any, locale: str, word: str, plan: str, report: str
) -> None:
    context = chromium.new_context(locale=locale)
    page = Page(context.new_page(), served.url)
    page.says("#generate", word)
    page.says("#unit-1-plan", plan)
    page.page.locator("#unit-1-enabled input").uncheck()
    page.page.locator("#steps input[type=number]").fill("2")
    page.page.click("#generate")
    page.says("#report", report)
    context.close()


# For every text that can be seen: the contrast of its colour with the nearest background that is not transparent.
CONTRASTS = """() => {
    const parse = (text) => (text.match(/[\\d.]+/g) || []).map(Number);
    const light = ([r, g, b]) => {
        const [x, y, z] = [r, g, b].map((v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
        return 0.2126 * x + 0.7152 * y + 0.0722 * z;
    };
    const behind = (each) => {
        for (; each; each = each.parentElement) {
            const colour = parse(getComputedStyle(each).backgroundColor);
            if (colour.length === 3 || colour[3] === 1) return colour;
        }
        return parse(getComputedStyle(document.body).backgroundColor);
    };
    const found = [];
    for (const each of document.querySelectorAll(".gradio-container *")) {
        const own = [...each.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
        const box = each.getBoundingClientRect();
        if (!own || !box.width || !box.height || each.closest("footer, svg, [disabled]")) continue;
        const [a, b] = [light(parse(getComputedStyle(each).color)), light(behind(each))].sort((x, y) => y - x);
        found.push([Math.round((a + 0.05) / (b + 0.05) * 100) / 100, each.textContent.trim().slice(0, 40)]);
    }
    return found;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_has_the_contrast_of_wcag_aa(served: Any, chromium: Any, scheme: str) -> None:
    context = chromium.new_context(viewport=WIDE, color_scheme=scheme, locale="en")
    page = Page(context.new_page(), served.url)
    page.page.click("#add-unit")
    page.page.wait_for_selector("#unit-2-image")
    page.page.click("#generate")
    page.says("#unit-1-message", "Unit 1: it has no picture")
    found = page.page.evaluate(CONTRASTS)
    context.close()
    assert len(found) > 30
    assert [each for each in found if each[0] < 4.5] == []


def test_every_control_has_a_name(opened: Page) -> None:
    nameless = opened.page.evaluate(
        """() => [...document.querySelectorAll(".gradio-container :is(button, input, select, textarea)")]
            .filter((each) => each.offsetParent && !each.closest("footer"))
            .filter((each) => !(each.innerText.trim() || each.ariaLabel || each.title || each.labels?.length))
            .map((each) => each.outerHTML.slice(0, 160))"""
    )
    assert nameless == []


def test_a_unit_may_be_added_while_a_run_goes_on(opened: Page) -> None:
    opened.page.locator("#unit-1-enabled input").uncheck()
    opened.long_run()
    opened.page.wait_for_selector("#progress progress[value]")
    opened.page.click("#add-unit")
    opened.page.wait_for_selector("#unit-2-image")
    opened.page.click("#stop")
    opened.says("#report", "Stopped")


def test_an_effect_mask_is_painted(opened: Page) -> None:
    opened.page.click("#example-1")
    opened.page.wait_for_selector("#unit-1-image img")
    opened.page.locator("#unit-1-masks button").first.click()
    opened.page.wait_for_selector("#unit-1-editor canvas")
    opened.page.get_by_role("button", name="Take the picture").click()
    opened.page.click("#unit-1-editor button[aria-label=Brush]")
    opened.page.locator("#unit-1-editor").scroll_into_view_if_needed()
    box = opened.page.locator("#unit-1-editor canvas").first.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    for _ in range(20):  # until the editor has its picture, a stroke leaves nothing
        opened.page.mouse.move(x - 30, y)
        opened.page.mouse.down()
        opened.page.mouse.move(x + 30, y, steps=8)
        opened.page.mouse.up()
        opened.page.get_by_role("button", name="Keep as effect mask").click()
        opened.page.wait_for_timeout(1000)
        if opened.page.locator("#unit-1-effect-mask img").count():
            break
    assert opened.page.locator("#unit-1-effect-mask img").count() == 1
