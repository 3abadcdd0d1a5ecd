"""The page of a real WebUI and of a real Forge in other languages: nothing is left out, and nothing is cut off."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from controlstack.units.choices import UNION_TYPES
from controlstack.units.offer import FILELESS_TYPES, TYPES
from webui_page import A1111, FORGE, Page, shoot

FOLDER = Path(__file__).parents[4] / "localizations"
LANGUAGES = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(FOLDER.glob("*.json"))}
both = pytest.mark.parametrize("page_host", [A1111, FORGE], indirect=True)

# Every text, tooltip and placeholder of the accordion; what lists offer is only there while they are open.
TEXTS = """(group) => {
    const found = [], walk = document.createTreeWalker(group, NodeFilter.SHOW_TEXT);
    for (let node; (node = walk.nextNode());)
        if (!node.parentElement.closest("style, script, .cnet-plan, .cnet-unseen, .forge-container"))
            found.push(node.textContent);
    for (const each of group.querySelectorAll("[title], [placeholder]"))
        if (!each.closest(".forge-container")) found.push(each.title, each.placeholder || "");
    return found.map((each) => each.trim());
}"""
CUT = """(group) => Array.from(group.querySelectorAll("label, span, button, legend")).filter(
    (each) => each.offsetParent && each.textContent.trim() && each.scrollWidth > each.clientWidth + 1
        && getComputedStyle(each).display !== "inline"
).map((each) => each.textContent.trim())"""

# What the program's names are in every language, and what gradio itself says and translates.
NAMES = {
    *TYPES, *FILELESS_TYPES, *UNION_TYPES.labels, "ControlNet", "Image", "Mask", "webui", "steps", "noise", "None",
    "none", "or", "txt2img", "img2img", "unit", "0: 1; 0.5: 0.3 ease-in; 1: 0", "1 1 1 0.5",
}  # fmt: skip
GRADIO = re.compile(
    r"Drop (Image|File) Here|Click to Upload|- or -|Do not do anything special|Clear|background|foreground|[\W\d_]*"
)
OURS = re.compile(r"ControlNet Unit \d|\W*(txt2img|img2img)|⇪ JSON|[▼◀]|\d+ units?")


@both
def test_every_text_of_the_page_is_translated(page: Page) -> None:
    page.more()
    texts = {each for each in page.page.locator("#txt2img_controlnet").evaluate(TEXTS) if each}
    unknown = {each for each in texts - NAMES if not GRADIO.fullmatch(each) and not OURS.fullmatch(each)}
    assert "Control Weight" in unknown and "Let this unit control the next pictures" in unknown
    for language, words in LANGUAGES.items():
        assert unknown - set(words) == set(), language


@both
@pytest.mark.parametrize("language", LANGUAGES)
def test_nothing_is_cut_off_in(page: Page, photograph: Path, language: str, tmp_path: Path) -> None:
    page.page.set_viewport_size({"width": 800, "height": 1700})
    page.more()
    page.canny(photograph)
    for stem in ("preprocessor_preview", "mask_upload", "effective_region"):
        page.tick(stem)
    page.page.wait_for_timeout(1000)
    translate(page, LANGUAGES[language])
    shoot(page, tmp_path, f"words-{language}-{'forge' if page.forge else 'a1111'}")
    group = page.page.locator("#txt2img_controlnet")
    assert LANGUAGES[language]["Control Mode"] in group.inner_text()
    assert group.evaluate(CUT) == []
    assert group.evaluate("(group) => group.scrollWidth <= group.clientWidth + 1"), "nothing sticks out"


def translate(page: Page, words: dict[str, str]) -> Any:
    """What the host does at the start of a page in another language, by its own function."""
    return page.page.evaluate("(words) => { window.localization = words; localizeWholePage(); }", words)
