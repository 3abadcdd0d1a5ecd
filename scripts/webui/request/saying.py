"""What users and clients are told: one printable line, which says which unit it is about and names no class of ours."""

# pyright: reportMissingImports=false
# fastapi comes with the host.

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ....core.errors import ControlError
from ....models.guard import printable

log = logging.getLogger("controlstack")

SENTENCE = 1000  # characters of one; what a client sent may be any length
NOTES = "Control notes"  # in a picture's text, and so in an answer's `info`, which has no comments


class ControlNet(ControlError):  # noqa: N818
    """An error as the page gets it: the WebUI shows the name of an error's class before its sentence."""


@contextmanager
def about_unit(number: int | None) -> Iterator[None]:
    """Let what goes wrong inside say which unit of the request it is about; None: there is one alone."""
    try:
        yield
    except ControlError as error:
        if number is None:
            raise
        raise type(error)(f"unit {number}: {error}") from error


def line(text: object) -> str:
    """Return a sentence on one line, printable, of at most `SENTENCE` characters."""
    return printable(text, SENTENCE)


def warn(p: Any, text: str) -> None:
    """Say something on the console, in the line below the pictures, and in their text, which API callers get."""
    said = line(text)
    log.warning(said)
    p.comment(f"ControlNet: {said}")
    notes = p.extra_generation_params.get(NOTES, "").split("; ")
    p.extra_generation_params[NOTES] = "; ".join(dict.fromkeys([*filter(None, notes), said.replace("; ", ", ")]))


def for_caller(p: Any, error: ControlError) -> Exception:
    """Return an error as its reader gets it: callers of the API 422 and the sentence, the page the sentence."""
    if not getattr(p, "is_api", False):
        return ControlNet(line(error))
    return refusal(f"ControlNet: {error}")


def refusal(text: object) -> Exception:
    """Return what ends a request of the API with 422 and a sentence."""
    from fastapi import HTTPException

    return HTTPException(status_code=422, detail=line(text))
