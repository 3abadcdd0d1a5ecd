"""Revision on the command line and in Python: it has no file, and its picture is looked at by CLIP."""

from __future__ import annotations

import controlstack.standalone.python as cs
import pytest
import torch
from controlstack.core.errors import ControlError, HostError, IncompatibleModelError
from controlstack.pipelines.bases import UnetState, load_base
from controlstack.pipelines.tiny_world import BASE
from controlstack.standalone.units import load_model, parse_unit


def test_it_may_be_named_as_a_preprocessor() -> None:
    request = parse_unit("image=a.png,preprocessor=revision_clipvision,noise_augmentation=0.3,weight=0.8")
    assert (request.model, request.preprocessor, request.weight) == ("revision_clipvision", "clip_g", 0.8)
    assert request.options == {"noise_augmentation": 0.3}
    request = parse_unit("image=a.png,preprocessor=reference_only,fidelity=0.3")
    assert (request.model, request.preprocessor, request.options) == ("reference_only", "none", {"fidelity": 0.3})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("image=a.png,preprocessor=revision_clipvision,noise_augmentation=2", "a number from 0 to 1"),
        ("image=a.png,preprocessor=revision_clipvision,low=2", "has no 'low'"),
        ("preprocessor=revision_clipvision", "has no image"),
    ],
)
def test_what_it_cannot_be_told_is_said(text: str, words: str) -> None:
    with pytest.raises(ControlError, match=words):
        parse_unit(text)


def test_a_base_of_another_kind_is_refused_by_name() -> None:
    base = load_base(BASE)
    with pytest.raises(IncompatibleModelError, match="'revision_clipvision' acts on the vector condition of SDXL"):
        load_model("revision_clipvision", torch.float32, UnetState(lambda: base))
    with pytest.raises(HostError, match="'revision_clipvision' has no file and acts on the base model"):
        cs.load_control_model("revision_clipvision")
