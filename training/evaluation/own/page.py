"""The results as one HTML page, with pictures, that needs no other file."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import cv2

from ....core.wording import counted
from ....preprocessors.resize import scale_short_side
from ..measures.measure import Image, Sample
from .results import Value

SIDE, QUALITY = 192, 85  # pixels of a shown picture's short side, and of its JPEG
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem }
table { border-collapse: collapse; margin: 1rem 0 }
td, th { border-bottom: 1px solid #ccc; padding: .3rem .8rem; text-align: left }
td.number { text-align: right; font-variant-numeric: tabular-nums }
.row { display: flex; flex-wrap: wrap; gap: .6rem; margin: 1.2rem 0 }
figure { margin: 0 }
figcaption { font-size: .8rem; max-width: 12rem }
"""


def page(values: Mapping[str, Value], rows: Sequence[Mapping[str, Any]], samples: Sequence[Sample]) -> str:
    """Return the page: a table of all values, and the first pictures with theirs. rows: of the samples."""
    shown = "".join(_shown(sample, row) for sample, row in zip(samples, rows, strict=False))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Evaluation</title>'
        f"<style>{STYLE}</style></head><body><h1>Evaluation</h1>{_table(values)}"
        f"<h2>The first {counted(len(samples), 'picture')}</h2>{shown}</body></html>\n"
    )


def _table(values: Mapping[str, Value]) -> str:
    cells = "".join(
        f'<tr><td>{escape(name.replace("_", " "))}</td><td class="number">{escape(str(value))}</td>'
        f"<td>{counted(value.count, 'picture')}</td><td>{value.better.value}</td></tr>"
        for name, value in values.items()
    )
    return f"<table><tr><th>measure</th><th>value</th><th>over</th><th></th></tr>{cells}</table>"


def _shown(sample: Sample, row: Mapping[str, Any]) -> str:
    said = ", ".join(f"{name.replace('_', ' ')} {value:.3g}" for name, value in row["values"].items())
    pictures = (
        ("hint", sample.hint),
        (f"{row['name']}: {said}" if said else str(row["name"]), sample.drawn),
        ("hint seen in it", sample.found),
        (sample.prompt or "the example's picture", sample.picture),
    )
    return f'<div class="row">{"".join(figure(text, each) for text, each in pictures if each is not None)}</div>'


def figure(text: str, picture: Image) -> str:
    """Return a picture [H, W, 3] with words below it."""
    return (
        f'<figure><img src="{data_uri(picture)}" alt="{escape(text)}"><figcaption>{escape(text)}</figcaption></figure>'
    )


def data_uri(picture: Image, side: int = SIDE) -> str:
    """Return a picture [H, W, 3], scaled down to a short side of `side` pixels, as an address that holds it."""
    small = scale_short_side(picture, side) if min(picture.shape[:2]) > side else picture
    _, data = cv2.imencode(".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    return f"data:image/jpeg;base64,{base64.b64encode(data.tobytes()).decode()}"
