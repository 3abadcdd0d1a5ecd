"""What users and clients are told: one printable line, that names its unit and no class of ours."""

from __future__ import annotations

import math
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from controlstack.core.errors import HintError, ModelError
from controlstack.scripts.webui.request.sampling import Sampling
from controlstack.scripts.webui.request.saying import NOTES, SENTENCE, ControlNet, about_unit, for_caller, line, warn


def request(**values: Any) -> Any:
    comments: list[str] = []
    return SimpleNamespace(extra_generation_params={}, comments=comments, comment=comments.append, **values)


def test_an_error_says_which_unit_it_is_about_and_keeps_its_kind() -> None:
    with pytest.raises(HintError, match=r"^unit 2: it is on, but has no picture$"), about_unit(2):
        raise HintError("it is on, but has no picture")
    with pytest.raises(ModelError, match=r"^no number$"), about_unit(None):
        raise ModelError("no number")
    with pytest.raises(KeyError), about_unit(1):
        raise KeyError("what is not ours stays as it is")


def test_a_sentence_is_one_printable_line() -> None:
    assert line("a\x1b[2J\nb") == r"a\x1b[2J b"
    assert len(line("x" * 10**6)) == SENTENCE


def test_the_page_shows_no_class_of_ours() -> None:
    """The WebUI writes the name of an error's class before its sentence."""
    error = for_caller(request(), ModelError("unit 1: it is on, but has no model"))
    assert f"{type(error).__name__}: {error}" == "ControlNet: unit 1: it is on, but has no model"


class Drawing:
    """A request of the host that draws what it is given, or fails."""

    is_api = False

    def __init__(self, latents: torch.Tensor | None) -> None:
        self.latents = latents

    def sample(self) -> torch.Tensor:
        if self.latents is None:
            raise sys.modules["modules"].devices.NansException("all NaN")
        return self.latents


@pytest.mark.parametrize("latents", [torch.tensor([1.0, math.nan]), torch.tensor([math.inf]), None], ids=str)
def test_latents_that_are_not_finite_are_said(monkeypatch: pytest.MonkeyPatch, latents: torch.Tensor | None) -> None:
    """The host would draw a black picture, or end with an error of its own, which API callers get as 500."""
    modules = ModuleType("modules")
    vars(modules)["devices"] = SimpleNamespace(NansException=type("NansException", (Exception,), {}))
    monkeypatch.setitem(sys.modules, "modules", modules)
    with pytest.raises(ControlNet, match="not finite: lower their weights"):
        Sampling(Drawing(latents), None)()
    kept = torch.ones(2)
    assert Sampling(Drawing(kept), None)() is kept


def test_what_is_amiss_stands_in_the_text_of_the_picture_once() -> None:
    """An answer of the API carries no comments, and its `info` has what is written into pictures."""
    p = request()
    for text in ("unit 0 acted on 0 of 3 steps", "unit 1 is off; it does not say", "unit 0 acted on 0 of 3 steps"):
        warn(p, text)
    assert p.comments[0] == "ControlNet: unit 0 acted on 0 of 3 steps"
    assert p.extra_generation_params == {NOTES: "unit 0 acted on 0 of 3 steps; unit 1 is off, it does not say"}
