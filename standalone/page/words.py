"""The page's words in the visitor's language, which the browser chooses: English is the key, others are in `words/`.

What preprocessors and the options of models say of themselves is in `words/preprocessors/`.
"""

# pyright: reportMissingImports=false
# gradio is an extra of its own, which not every environment has.

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import gradio as gr

from ...units.saying import Say

LANGUAGES = {"de": "de", "zh-CN": "zh"}  # as browsers call them -> file in words/
ENGLISH = "en"  # whose file holds only words that are not their own key
FOLDER = Path(__file__).with_name("words")


def t(text: str) -> Any:
    """Return a text that the browser shows in its own language."""
    return gr.I18n()(text)


def speaker(language: str) -> Say:
    """Return what says sentences in a language, `de` or `zh`; any other is English, as is what has no translation."""
    words = _words_of(language if language in LANGUAGES.values() else ENGLISH)

    def say(sentence: str, **values: object) -> str:
        return words.get(sentence, sentence).format(**values)

    return say


def language_of(request: gr.Request) -> str:
    """Return the language that a visitor's browser asks for first among those that there are, else English."""
    header = dict(request.headers or {}).get("accept-language", "")
    asked = [part.partition(";")[0].strip().lower()[:2] for part in str(header).split(",")]
    return next((each for each in asked if each in (*LANGUAGES.values(), ENGLISH)), ENGLISH)


@cache
def _words_of(language: str) -> dict[str, str]:
    return read_words(language)


def translations() -> gr.I18n:
    """Return all words for gradio; what has no translation is shown in English."""
    tables = {locale: read_words(file) for locale, file in LANGUAGES.items()}
    english = {key: key for table in tables.values() for key in table}
    return gr.I18n(en={**english, **read_words(ENGLISH)}, **tables)


def read_words(language: str) -> dict[str, str]:
    """Return a language's table: English -> its word, of the page and of preprocessors and models' options."""
    files = (FOLDER / "preprocessors" / f"{language}.json", FOLDER / f"{language}.json")
    tables = (json.loads(file.read_text(encoding="utf-8")) for file in files if file.is_file())
    return {word: own for table in tables for word, own in table.items()}
