"""Every word of the page has its German and Chinese one."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from controlstack.models.kinds.fileless import FILELESS
from controlstack.models.registry import REGISTRY as FAMILIES
from controlstack.preprocessors import REGISTRY, find
from controlstack.standalone.studio import offers
from controlstack.units.choices import HIRES, MODES, RESIZES

PAGE = Path(__file__).resolve().parents[2] / "standalone" / "page"
STUDIO = PAGE.with_name("studio")
UNITS = PAGE.parents[1] / "units"
SAYING = ("t", "say", "Example")  # what is called with a word first


def said_words() -> set[str]:
    """The words and sentences in the page's code; a new field of units is in English until somebody translates it."""
    calls = [
        node
        for path in (*PAGE.glob("*.py"), *STUDIO.glob("*.py"), UNITS / "saying.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) in SAYING
    ]
    return {each.args[0].value for each in calls if isinstance(each.args[0], ast.Constant)}


@pytest.mark.parametrize("language", ["de", "zh"])
def test_every_word_is_translated(language: str) -> None:
    known = json.loads((PAGE / "words" / f"{language}.json").read_text(encoding="utf-8"))
    labels = {word for each in (MODES, RESIZES, HIRES) for word in each.labels}
    from_lists = labels | {"Width", "Height", "Columns", "Rows"}  # labels of rows that are built in a loop
    assert (said_words() | from_lists) - set(known) == set()
    assert all(word.strip() for word in known.values())


def declared_words() -> set[str]:
    """What preprocessors, their numbers and the options of models say of themselves."""
    numbers = [number for each in REGISTRY for number in each.parameters]
    families = [option for each in FAMILIES for option in each.options]
    options = [*families, *(option for each in FILELESS.values() for option in each)]
    words = {word for each in REGISTRY for word in (each.title, each.doc)} - {find("none").title}  # which has its own
    words |= {word for each in numbers for word in (each.label, each.doc, each.unit)} - {"", "px", "%"}
    return words | {word for each in options for word in (each.label, each.meaning)}


@pytest.mark.parametrize("language", ["de", "zh"])
def test_preprocessors_are_translated(language: str) -> None:
    known = json.loads((PAGE / "words" / "preprocessors" / f"{language}.json").read_text(encoding="utf-8"))
    page = json.loads((PAGE / "words" / f"{language}.json").read_text(encoding="utf-8"))
    assert declared_words() - set(known) - set(page) == set()
    assert set(known) - declared_words() == set()  # words of what is gone
    assert all(word.strip() for word in known.values())


def test_a_list_speaks_the_visitors_language() -> None:
    words = pytest.importorskip("controlstack.standalone.page.words", reason="needs gradio")
    from controlstack.standalone.page.cards import sliders

    german = words.speaker("de")
    assert ("Canny-Kanten", "canny") in offers.preprocessors("Canny", say=german)
    assert offers.about("softedge_hed", say=german).startswith("Weiche, vollständige Umrisse.")
    low = sliders("canny", {}, german)[0]
    assert (low["label"], low["info"]) == ("Untere Schwelle", "Schwächere Übergänge sind nie eine Kante.")


@pytest.mark.parametrize("language", ["de", "zh"])
def test_a_sentence_keeps_its_places(language: str) -> None:
    known = json.loads((PAGE / "words" / f"{language}.json").read_text(encoding="utf-8"))
    for sentence, word in known.items():
        assert sorted(re.findall(r"{\w*}", word)) == sorted(re.findall(r"{\w*}", sentence)), sentence


@pytest.mark.parametrize(
    ("header", "language"),
    [("de-DE,de;q=0.9,en;q=0.8", "de"), ("zh-CN", "zh"), ("fr,en;q=0.5,de;q=0.1", "en"), ("", "en"), ("fr", "en")],
)
def test_the_browser_chooses_the_language(header: str, language: str) -> None:
    words = pytest.importorskip("controlstack.standalone.page.words", reason="needs gradio")
    assert words.language_of(SimpleNamespace(headers={"accept-language": header})) == language
    assert words.speaker("de")("step {step} of {steps}", step=1, steps=2) == "Schritt 1 von 2"
    assert words.speaker("fr")("step {step} of {steps}", step=1, steps=2) == "step 1 of 2"


@pytest.mark.parametrize("language", ["en", "de", "zh"])
def test_guess_mode_has_that_name(language: str) -> None:
    words = pytest.importorskip("controlstack.standalone.page.words", reason="needs gradio")
    said = words.speaker(language)("ControlNet is more important").lower()
    assert "guess mode" in said or "猜测模式" in said
