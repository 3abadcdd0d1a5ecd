"""The API: a few named endpoints that take and give JSON, for gradio's client and for plain HTTP.

Pictures are base64 of PNG, JPEG or WebP. A request says what cards say; nothing in it is a path.
"""

# pyright: reportMissingImports=false
# gradio is an extra of its own, which not every environment has.

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

import gradio as gr
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ...core.errors import ControlError, UnitError
from ...pipelines.request import Request
from ...pipelines.schedulers import NAMES
from ...preprocessors.images import decode_image
from ...units.encoded import bytes_of
from ...units.hint import visible
from ...units.offer import offers
from ...units.record import PICTURES
from ...units.request import FIELDS
from ..asked import PICTURES as REQUEST_PICTURES
from ..studio.running import Progress, Stop, Stopped, Studio, plain_firings
from ..studio.said import make_job, size_of
from .card_events import hint_of
from .results import warnings

ONE_AT_A_TIME: dict[str, Any] = {"concurrency_limit": 1, "concurrency_id": "draw"}


def add_endpoints(studio: Studio) -> None:
    """Add the endpoints to the present page."""

    def generate(request: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Draw pictures. request: fields of a picture, and `units`, a list of tables of fields."""
        stop = Stop()
        try:
            yield from _generate(studio, _table("the request", request), stop)
        except ControlError as error:
            raise gr.Error(str(error), print_exception=False) from error
        except Stopped as error:
            raise gr.Error("the server ends, and nothing is drawn any more", print_exception=False) from error
        finally:
            stop.ask()

    def preprocess(unit: dict[str, Any], width: int = 512, height: int = 512) -> dict[str, Any]:
        """Make the hint of a unit for a picture of a size."""
        try:
            pixels = hint_of(studio, _unit(unit), size_of(width, height))
        except ControlError as error:
            raise gr.Error(str(error), print_exception=False) from error
        return {"hint": encode(pixels)}

    def offer() -> dict[str, Any]:
        """Say what can be chosen: base models, models, preprocessors with their numbers, schedulers, fields."""
        return what_is_offered(studio)

    gr.api(generate, api_name="generate", **ONE_AT_A_TIME)
    gr.api(preprocess, api_name="preprocess", **ONE_AT_A_TIME)
    gr.api(offer, api_name="offer", queue=False)


def what_is_offered(studio: Studio) -> dict[str, Any]:
    """Return everything that can be chosen, as JSON can hold it."""
    models = studio.library.models.values()
    return {
        "bases": list(studio.library.bases),
        "loras": list(studio.library.loras),
        "models": [{"name": each.name, "family": each.family, "hint": each.says} for each in models],
        "preprocessors": [
            {
                "name": each.preprocessor.id,
                "title": each.preprocessor.title,
                "lacks": each.lacks,
                "licences": each.licences,
                "parameters": {number.name: number.default for number in each.parameters},
            }
            for each in offers(studio.runtime.store)
        ],
        "schedulers": list(NAMES),
        "request": [each.name for each in fields(Request)],
        "unit": {name: {"expected": each.expected, "meaning": each.meaning} for name, each in FIELDS.items()},
    }


def _generate(studio: Studio, request: Mapping[str, Any], stop: Stop) -> Iterator[dict[str, Any]]:
    said = {name: value for name, value in request.items() if name != "units"}
    for name in REQUEST_PICTURES:
        if said.get(name) is not None:
            said[name] = decode(said[name], name)[..., 0 if name == "mask" else slice(None)]
    units = request.get("units", [])
    if not isinstance(units, list):
        raise UnitError(f"units is {type(units).__name__}, expected a list of tables")
    job = make_job(studio.library, said, [_unit(each) for each in units])
    for each in studio.run(lambda report: studio.draw(job, stop, report)):
        if isinstance(each, Progress):
            yield {"step": each.step, "steps": each.steps}
        else:
            yield {
                "images": [base64.b64encode(path.read_bytes()).decode("ascii") for path in each.files],
                "seeds": list(each.seeds),
                "hints": [encode(visible(unit.hint)) for unit in each.units],
                "units": list(plain_firings(each)),
                "warnings": list(warnings(each, str.format)),
                "seconds": round(each.seconds, 3),
            }


def _unit(said: Any) -> dict[str, Any]:
    found = dict(_table("a unit", said))
    for name, rank in PICTURES.items():
        if found.get(name) is not None:
            found[name] = decode(found[name], name)[..., slice(None) if rank == 3 else 0]
    return found


def _table(what: str, said: object) -> dict[str, Any]:
    if not isinstance(said, dict):
        raise UnitError(f"{what} is {type(said).__name__}, expected a table of fields")
    return said


def decode(text: object, name: str) -> NDArray[np.uint8]:
    """Return the pixels [H, W, 3] of a picture in base64, in any of its usual spellings."""
    return np.ascontiguousarray(decode_image(bytes_of(text, name), name))


def encode(pixels: NDArray[np.uint8]) -> str:
    """Return pixels as PNG in base64."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode("ascii")
