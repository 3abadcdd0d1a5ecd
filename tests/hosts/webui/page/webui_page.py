"""The page of a WebUI in a headless Chromium, as a person uses it: one driver for gradio 3 and for Forge's gradio 4."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import browser as chromium
import numpy as np
import pytest
from PIL import Image
from webui_host import Drawing, Host, Picture, decode

SECOND = 1000
WAIT = 60 * SECOND  # for the host on a busy machine
SIZE, STEPS = 64, 3
TRIES = 3  # a canvas that is just laid out anew misses strokes, and a person draws again
A1111, FORGE = "webui", "forge"  # what fixtures call them
UNIT_1 = "customscript/controlnet.py/unit 1/txt2img"
DEFAULTS = {f"{UNIT_1}/Preprocessor/value": "canny", f"{UNIT_1}/Threshold A/value": 55}
READY = "typeof controlstack === 'object' && uiCurrentTab !== null"
# A1111's own handler of width and height returns more values than it has outputs (`onCalcResolutionHires`).
ITS_OWN = "reading 'props'"
FRAMES = """async () => {
    for (let count = 0; count < 30; count++)
        await new Promise(requestAnimationFrame);
}"""
COLOURS = """(element) => {
    const context = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
    const rgba = (colour) => {
        context.clearRect(0, 0, 1, 1);
        context.fillStyle = colour;
        context.fillRect(0, 0, 1, 1);
        return Array.from(context.getImageData(0, 0, 1, 1).data);
    };
    let ground = [255, 255, 255, 0];
    for (let each = element; each && !ground[3]; each = each.parentElement)
        ground = rgba(getComputedStyle(each).backgroundColor);
    return [rgba(getComputedStyle(element).color).slice(0, 3), ground.slice(0, 3)];
}"""


def expect(target: Any) -> Any:
    """Playwright's assertion, with time for the host."""
    api = pytest.importorskip("playwright.sync_api", reason="no playwright: the page needs a browser to be seen in")
    api.expect.set_options(timeout=WAIT)
    return api.expect(target)


class Page:
    """A freshly loaded page, with our accordion of one tab open."""

    def __init__(self, page: Any, host: Host, tab: str = "txt2img") -> None:
        self.page, self.host, self.tab = page, host, tab
        self.forge = host.forge
        self.errors: list[str] = []
        page.set_default_timeout(WAIT)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.goto(host.address)
        page.wait_for_function(READY)
        page.wait_for_selector("#txt2img_controlnet .cnet-badge", state="attached")
        self.go(tab)

    def reload(self) -> None:
        """Build the page anew, by the button at its bottom, as settings of the page need it."""
        self.page.locator("footer a, #footer a").filter(has_text="Reload UI").first.click()
        self.page.wait_for_function(f"!({READY})", timeout=3 * WAIT)
        self.page.wait_for_function(READY, timeout=3 * WAIT)
        self.page.wait_for_selector("#txt2img_controlnet .cnet-badge", state="attached")
        self.go(self.tab)

    def go(self, tab: str) -> None:
        """Turn to a tab and open our accordion there."""
        self.tab = tab
        if tab == "img2img":
            self.page.locator("#tabs button[role=tab], #tabs > .tab-nav > button").filter(
                has_text="img2img"
            ).first.click()
        self.page.click(f"#{tab}_controlnet #controlnet > .label-wrap")
        for name, value in (("width", SIZE), ("height", SIZE), ("steps", STEPS)):
            self.number(f"#{tab}_{name}", value)
        self.fill(f"#{tab}_seed input", 1)

    # --- One unit ----------------------------------------------------------------------------------------------------

    def of(self, name: str, unit: int = 0) -> Any:
        """An element of a unit."""
        return self.page.locator(f"#{self.tab}_controlnet_ControlNet-{unit}_{name}").first

    def number(self, selector: str, value: float) -> None:
        self.fill(f"{selector} input[type=number]", value)

    def fill(self, selector: str, value: object) -> None:
        self.page.locator(selector).first.fill(str(value))
        self.page.keyboard.press("Tab")

    def slide(self, name: str, value: float, unit: int = 0) -> None:
        self.of(f"controlnet_{name}_slider", unit).locator("input[type=number]").fill(str(value))
        self.page.keyboard.press("Tab")

    def value(self, name: str, unit: int = 0) -> str:
        return self.of(name, unit).locator("input[type=number], input:not([type])").first.input_value()

    def write(self, name: str, text: str, unit: int = 0) -> None:
        """Into a text box."""
        self.of(name, unit).locator("textarea, input").first.fill(text)
        self.page.keyboard.press("Tab")

    def tick(self, stem: str, unit: int = 0, *, on: bool = True) -> None:
        self.of(f"controlnet_{stem}_checkbox", unit).locator("input").set_checked(on)

    def pick(self, stem: str, label: str, unit: int = 0) -> None:
        """One of several round buttons."""
        self.of(stem, unit).get_by_label(label, exact=True).check()

    def type(self, label: str, unit: int = 0) -> None:
        self.pick("controlnet_type_filter_radio", label, unit)

    def choose(self, name: str, text: str, unit: int = 0) -> None:
        """An entry of a list that opens."""
        self.of(name, unit).locator("input").first.click()
        entry = rf"^\W*{re.escape(text)}" + ("" if text.endswith("[") else r"\s*$")
        self.of(name, unit).locator("ul li").filter(has_text=re.compile(entry)).first.click()

    def options(self, name: str, unit: int = 0) -> list[str]:
        """All entries of a list that opens."""
        self.of(name, unit).locator("input").first.click()
        found = self.of(name, unit).locator("ul li")
        expect(found.first).to_be_visible(timeout=WAIT)
        texts = [each.replace("✓", "").strip() for each in found.all_inner_texts()]
        self.page.keyboard.press("Escape")
        self.page.keyboard.press("Tab")
        return texts

    def more(self, unit: int = 0) -> None:
        """Open what is folded below a unit."""
        self.of("more", unit).locator(".label-wrap").first.click()
        expect(self.of("weight_curve", unit)).to_be_visible(timeout=WAIT)

    def unit_tab(self, index: int) -> None:
        self.page.locator(f"#{self.tab}_controlnet_tabs > .tab-nav > button").nth(index).click()

    def upload(self, picture: Path, unit: int = 0) -> None:
        self.of("input_image", unit).locator("input[type=file]").first.set_input_files(picture)
        expect(self.of("controlnet_enable_checkbox", unit).locator("input")).to_be_checked(timeout=WAIT)

    def canny(self, picture: Path, unit: int = 0) -> None:
        """The shortest way to a unit that acts."""
        self.upload(picture, unit)
        self.type("Canny", unit)
        self.has_model("canny", unit)

    def has_model(self, name: str, unit: int = 0) -> None:
        box = self.of("controlnet_model_dropdown", unit).locator("input").first
        expect(box).to_have_value(re.compile(rf"{name} \["))

    def paint(self, name: str, *points: tuple[float, float], unit: int = 0) -> None:
        """A stroke along points of a picture, as parts of its width and height."""
        self._stroke(self.of(name, unit), points)

    def paint_host(self, selector: str, *points: tuple[float, float]) -> None:
        """The same on a picture of the host's."""
        self._stroke(self.page.locator(selector).first, points)

    def _stroke(self, image: Any, points: Sequence[tuple[float, float]]) -> None:
        area = image.locator("img.forge-image" if self.forge else "canvas[key=interface]").first
        area.scroll_into_view_if_needed()
        if not self.forge:  # until the picture has loaded, the canvas has the size of any canvas
            self.page.wait_for_function("(canvas) => canvas.width !== 300", arg=area.element_handle())
        for _ in range(TRIES):
            self._drag(area, points)
            if not image.get_by_text("Start drawing").count():  # gradio 3 says so until it has seen a stroke
                return

    def _drag(self, area: Any, points: Sequence[tuple[float, float]]) -> None:
        self.page.wait_for_timeout(SECOND)
        box = area.bounding_box()
        first, *others = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in points]
        self.page.mouse.move(*first)
        self.page.mouse.down()
        for point in others:
            self.page.mouse.move(*point, steps=30)  # the brush lags behind
        self.page.evaluate(FRAMES)  # it follows frame by frame, and a busy machine draws few
        self.page.mouse.up()
        self.page.wait_for_timeout(SECOND)

    def preview(self, unit: int = 0) -> Picture:
        """Run the preprocessor; what the page shows then, RGB [H, W, 3]."""
        shown = self.of("generated_image", unit).locator("img").first
        before = shown.get_attribute("src") if shown.count() else None
        self.of("controlnet_trigger_preprocessor", unit).click()
        expect(shown).to_be_visible(timeout=WAIT)
        if before is not None:
            expect(shown).not_to_have_attribute("src", before)
        return self.fetch(shown.get_attribute("src"))

    def fetch(self, address: str) -> Picture:
        """A picture that the page shows, RGB [H, W, 3]."""
        if address.startswith("data:"):
            return decode(address.partition(",")[2])
        data = self.page.request.get(
            address if "://" in address else f"{self.host.address}/{address.lstrip('/')}"
        ).body()
        return np.array(Image.open(io.BytesIO(data)).convert("RGB"))

    # --- The tab ------------------------------------------------------------------------------------------------------

    @property
    def badge(self) -> Any:
        return self.page.locator(f"#{self.tab}_controlnet .cnet-badge")

    def contrast(self, selector: str) -> float:
        """Of a text to what it stands on, as WCAG 2.1 defines it."""
        lights = [_luminance(each) for each in self.page.locator(selector).first.evaluate(COLOURS)]
        return (max(lights) + 0.05) / (min(lights) + 0.05)

    def generate(self) -> str:
        """The text below the new pictures; they tell when it is there, since it may be the last one again."""
        shown = self.page.locator(f"#{self.tab}_gallery img").first
        before = shown.get_attribute("src") if shown.count() else None
        self.page.click(f"#{self.tab}_generate")
        if before is None:
            expect(shown).to_be_attached()
        else:
            expect(shown).not_to_have_attribute("src", before)
        self.page.wait_for_selector(f"#{self.tab}_interrupt", state="hidden")
        info = self.page.locator(f"#html_info_{self.tab}").first
        expect(info).to_contain_text("Steps:")
        return info.inner_text()

    def refused(self) -> str:
        """What the page says instead of drawing."""
        self.page.click(f"#{self.tab}_generate")
        said = self.page.locator(f"#html_log_{self.tab} .error").first
        expect(said).to_be_visible(timeout=WAIT)
        return said.inner_text()

    def newest(self, count: int = 1) -> list[Picture]:
        """The last saved pictures, the newest last."""
        found = (self.host.base / "outputs" / f"{self.tab}-images").rglob("*.png")
        files = sorted(found, key=lambda each: each.stat().st_mtime_ns)
        return [read(each) for each in files[-count:]]

    def same(self, info: str, *units: dict[str, Any], **settings: Any) -> Drawing:
        """What a client gets for the page's settings, of which `info` is the text below the picture."""
        asked: dict[str, Any] = {"prompt": "", "negative_prompt": "", "seed": 1, "width": SIZE, "height": SIZE}
        for name, label in (("sampler_name", "Sampler"), ("scheduler", "Schedule type")):
            found = re.search(rf"{label}: ([^,\n]+)", info)
            asked |= {name: found[1]} if found else {}
        return self.host.draw(*units, **{**asked, "steps": STEPS, **settings}, route=settings.pop("route", self.tab))

    def close(self) -> None:
        """Nothing of ours may have failed in the browser."""
        ours = [error for error in self.errors if ITS_OWN not in error]
        assert [error for error in ours if not self.forge or "controlstack" in error.lower()] == []


def _luminance(colour: Sequence[int]) -> float:
    linear = [
        part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in (c / 255 for c in colour)
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def write_square(path: Path) -> Path:
    """A bright square in the middle of a dark ground, 96x96."""
    picture = np.full((96, 96, 3), 30, np.uint8)
    picture[24:72, 24:72] = (230, 120, 60)
    Image.fromarray(picture).save(path)
    return path


def read(path: Path) -> Picture:
    """A picture of a file, RGB [H, W, 3]."""
    return np.array(Image.open(path).convert("RGB"))


def differ(left: Picture, right: Picture) -> float:
    """The mean difference of two pictures, in 0..255."""
    return float(np.abs(left.astype(int) - right).mean())


def shoot(page: Page, folder: Path, name: str) -> None:
    """A screenshot for whoever asked for them."""
    chromium.shoot(page.page, folder, name)
