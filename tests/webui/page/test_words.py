"""Translations name only texts that the page has, and every label of it."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest
from controlstack.preprocessors import REGISTRY
from controlstack.scripts.webui.request import preprocessing
from controlstack.units.choices import HIRES, MODES, RESIZES

ROOT = Path(__file__).parents[3]
LANGUAGES = sorted((ROOT / "localizations").glob("*.json"))
SHOWN = {"label", "placeholder"}  # arguments of widgets that users read
NAMES = {"txt2img", "img2img", "ControlNet", "Image", "Mask"}  # the host translates these itself, or nobody does


def strings() -> set[str]:
    """Every text in the sources of the page."""
    files = [*(ROOT / "scripts" / "webui").rglob("*.py")]
    nodes = (node for file in files for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))))
    found = {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    sliders = {slider["name"] for each in REGISTRY for slider in preprocessing.sliders(each)}
    return found | sliders | {*HIRES.labels, *MODES.labels, *RESIZES.labels}


def labels() -> set[str]:
    """The texts that widgets are given by name."""
    files = [*(ROOT / "scripts" / "webui" / "page").rglob("*.py")]
    calls = (node for file in files for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))))
    words = (word for call in calls if isinstance(call, ast.Call) for word in call.keywords if word.arg in SHOWN)
    return {word.value.value for word in words if isinstance(word.value, ast.Constant) and word.value.value}


def test_there_are_languages() -> None:
    assert {path.stem for path in LANGUAGES} == {"de_DE", "zh_CN"}


@pytest.mark.parametrize("path", LANGUAGES, ids=lambda path: path.stem)
def test_words_are_those_of_the_page(path: Path) -> None:
    words = json.loads(path.read_text(encoding="utf-8"))
    assert set(words) <= strings()
    examples = {each for each in labels() if each[:1].isdigit()}  # a curve reads the same everywhere
    assert labels() - examples - NAMES <= set(words)
    assert all(words.values())


@pytest.mark.parametrize("path", LANGUAGES, ids=lambda path: path.stem)
def test_every_slider_of_a_preprocessor_is_translated(path: Path) -> None:
    named = {slider["name"] for each in REGISTRY for slider in preprocessing.sliders(each)}
    assert named - set(json.loads(path.read_text(encoding="utf-8"))) == set()
