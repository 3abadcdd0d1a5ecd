"""The page of a study in a real browser: keys alone answer it, and a person goes on from a file of answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from controlstack import cli

# Playwright leaves pipes to the garbage collector.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
SIZE = {"width": 1000, "height": 900}


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Two methods, two items, one question: two pairs."""
    for shade, name in enumerate(("dark", "light")):
        (tmp_path / name).mkdir()
        for k in range(2):
            cv2.imwrite(str(tmp_path / name / f"{k}.png"), np.full((64, 64, 3), 60 + 120 * shade + 10 * k, np.uint8))
    given = [f"dark={tmp_path / 'dark'}", f"light={tmp_path / 'light'}", "--out", str(tmp_path / "study.html")]
    assert cli.main(["study", *given, "--hints", str(tmp_path / "dark"), "--question", "Which is lighter?"]) == 0
    return tmp_path / "study.html"


@pytest.fixture
def page(chromium: Any, study: Path) -> Iterator[Any]:
    context = chromium.new_context(viewport=SIZE, accept_downloads=True)
    opened = context.new_page()
    broken: list[str] = []
    reached: list[str] = []
    opened.on("pageerror", lambda each: broken.append(str(each)))
    opened.on("request", lambda each: reached.append(each.url))
    opened.goto(study.as_uri())
    yield opened
    context.close()
    assert broken == []
    assert [url for url in reached if not url.startswith((study.as_uri(), "data:", "blob:"))] == []


BRIGHTNESS = """side => {
    const canvas = document.createElement("canvas");
    const context = canvas.getContext("2d");
    context.drawImage(document.querySelector(`#${side} img`), 0, 0);
    return context.getImageData(3, 3, 1, 1).data[0];
}"""


def lighter(page: Any) -> str:
    """The key of the lighter picture of the present pair, as a person would see it."""
    page.wait_for_function("() => [...document.querySelectorAll('.pair img')].every(each => each.complete)")
    return "ArrowLeft" if page.evaluate(BRIGHTNESS, "left") > page.evaluate(BRIGHTNESS, "right") else "ArrowRight"


def saved(page: Any, path: Path) -> dict[str, Any]:
    with page.expect_download() as waiting:
        page.keyboard.press("s")
    waiting.value.save_as(path)
    return json.loads(path.read_text(encoding="utf-8"))


def test_keys_alone_answer_it_and_a_file_goes_on(
    page: Any, study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page.keyboard.type("Ann B")  # the field has the focus
    page.keyboard.press("Enter")
    page.wait_for_selector("#ask:not([hidden])")
    assert page.inner_text("#question") == "Which is lighter?"
    assert page.locator("#hint img").count() == 1
    assert page.inner_text("#count") == "1 of 2"
    page.keyboard.press("ArrowDown")
    assert page.inner_text("#count") == "2 of 2"
    page.keyboard.press("Backspace")  # another thought
    page.keyboard.press(lighter(page))
    first = saved(page, tmp_path / "answers.json")
    assert first["person"] == "Ann B"
    assert len(first["answers"]) == 1

    page.goto(study.as_uri())  # another day
    page.set_input_files("#load", str(tmp_path / "answers.json"))
    page.wait_for_selector("#ask:not([hidden])")
    assert page.inner_text("#count") == "2 of 2"
    page.keyboard.press(lighter(page))
    page.wait_for_selector("#end:not([hidden])")
    whole = saved(page, tmp_path / "answers.json")
    assert whole["order"] == first["order"]
    capsys.readouterr()
    key = study.with_suffix(".key.json")
    assert cli.main(["study", "--read", str(tmp_path / "answers.json"), "--key", str(key)]) == 0
    said = capsys.readouterr().out
    assert "dark preferred to light: 0%" in said
    assert "average human rank of light: 2.00" in said


def test_a_mouse_answers_too_and_another_file_is_told(page: Any, tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text('{"study": "another"}', encoding="utf-8")
    page.set_input_files("#load", str(tmp_path / "other.json"))
    page.wait_for_function("() => document.querySelector('#fault').textContent")
    assert "other.json holds no answers to this study" in page.inner_text("#fault")
    page.fill("#person", "bob")
    page.click("text=Begin")
    page.click("#left")
    page.click("#same")
    page.wait_for_selector("#end:not([hidden])")
    page.click("#again")
    assert page.inner_text("#count") == "2 of 2"


def test_sides_and_order_are_drawn_anew_for_each_person(page: Any, study: Path, tmp_path: Path) -> None:
    seen = set()
    for k in range(12):
        page.goto(study.as_uri())
        page.fill("#person", f"person {k}")
        page.keyboard.press("Enter")
        page.wait_for_selector("#ask:not([hidden])")
        seen.add(json.dumps(saved(page, tmp_path / "answers.json")["order"]))
    assert len(seen) > 3  # of 8
