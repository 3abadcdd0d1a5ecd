"""The page's words in the visitor's language, which the browser chooses: English is the key, others are in `words/`."""

# pyright: reportMissingImports=false
# gradio is an extra of its own, which not every environment has.

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gradio as gr

LANGUAGES = {"de": "de", "zh-CN": "zh"}  # as browsers call them -> file in words/
FOLDER = Path(__file__).with_name("words")


def t(text: str) -> Any:
    """Return a text that the browser shows in its own language."""
    return gr.I18n()(text)


def translations() -> gr.I18n:
    """Return all words for gradio; what has no translation is shown in English."""
    tables = {locale: read_words(file) for locale, file in LANGUAGES.items()}
    english = {key: key for table in tables.values() for key in table}
    return gr.I18n(en=english, **tables)


def read_words(language: str) -> dict[str, str]:
    """Return a language's table: English -> its word."""
    return json.loads((FOLDER / f"{language}.json").read_text(encoding="utf-8"))
