"""What clients may call, and with how many inputs: checked before gradio, which answers mistakes with a traceback."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

from ...core.wording import counted

CALL = re.compile(r".*/(?:call|run|api)/(?P<named>v2/)?(?P<name>[^/]+)/?")  # gradio's routes by name
JOIN = re.compile(r".*/queue/join/?")  # and by number, from the page itself
BY_NUMBER = "predict"  # what gradio's routes call an endpoint that the body names by its number

Refusal = tuple[int, str]  # status of HTTP, and a sentence


class Endpoints:
    """The endpoints of a page, by name and by number."""

    def __init__(self, page: Any) -> None:
        """page: gradio's `Blocks`, built."""
        told: Mapping[str, Any] = page.get_api_info()["named_endpoints"]
        self._named = {name[1:]: _inputs(info["parameters"]) for name, info in told.items()}
        self._numbered: dict[int, int] = {number: len(function.inputs) for number, function in page.fns.items()}

    def refusal(self, path: str, body: bytes) -> Refusal | None:
        """Return why a call cannot be answered; None if it can, or is no call."""
        said = _table(body)
        if said is None:
            return None  # gradio says what is wrong with it
        if JOIN.fullmatch(path):
            return self._by_number(said)
        match = CALL.fullmatch(path)
        if match is None:
            return None
        if match["name"] == BY_NUMBER:
            return self._by_number(said)
        return self._by_name(match["name"], said, named=bool(match["named"]))

    def _by_name(self, name: str, said: Mapping[str, Any], *, named: bool) -> Refusal | None:
        if name not in self._named:
            return 404, f"there is no endpoint '{name}': there are {', '.join(self._named)}"
        inputs, data = self._named[name], said.get("data")
        if named:
            return _by_inputs(name, said, inputs)
        if not isinstance(data, list) or len(cast("list[Any]", data)) == len(inputs):
            return None
        of = f" ({', '.join(inputs)})" if inputs else ""
        given = len(cast("list[Any]", data))
        return 422, f"{name} takes {counted(len(inputs), 'input')}{of}, and data has {given}: give as many"

    def _by_number(self, said: Mapping[str, Any]) -> Refusal | None:
        """Return why a call by number cannot be answered; the functions of cards are known to gradio alone."""
        number, data = said.get("fn_index"), said.get("data")
        if not isinstance(number, int) or number not in self._numbered or not isinstance(data, list):
            return None
        inputs, given = self._numbered[number], len(cast("list[Any]", data))
        if given >= inputs:
            return None
        return 422, f"function {number} takes {counted(inputs, 'input')}, and data has {given}: reload the page"


def _by_inputs(name: str, said: Mapping[str, Any], inputs: Mapping[str, bool]) -> Refusal | None:
    """Return why a call that names its inputs cannot be answered."""
    if (unknown := next((each for each in said if each not in inputs), None)) is not None:
        return 422, f"{name} has no input '{unknown}': it has {', '.join(inputs)}"
    lacking = next((each for each, needed in inputs.items() if needed and each not in said), None)
    return None if lacking is None else (422, f"{name} needs the input '{lacking}': give it")


def _inputs(parameters: Sequence[Mapping[str, Any]]) -> dict[str, bool]:
    """Return the inputs of an endpoint, and whether each must be given."""
    return {each["parameter_name"]: not each["parameter_has_default"] for each in parameters}


def _table(body: bytes) -> dict[str, Any] | None:
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return cast("dict[str, Any]", content) if isinstance(content, dict) else None
