"""Revision in sd-webui-controlnet's words is a preprocessor without a model, and here a model without a file."""

from __future__ import annotations

from pathlib import Path

import pytest
from controlstack.core.modes import ControlMode
from controlstack.models.kinds.revisions import REVISION, REVISIONS
from controlstack.preprocessors.networks.store import Store
from controlstack.scripts.webui.host.files import ModelFiles
from controlstack.scripts.webui.page import choices
from controlstack.scripts.webui.page.contents import Contents
from controlstack.scripts.webui.request import preprocessing
from controlstack.units.request import AUTO, UnitRequest
from controlstack.units.webui.fields import args_of, parse_unit, request_of
from controlstack.units.webui.fileless import of_type
from controlstack.units.webui.infotext import read_unit, write_unit


@pytest.mark.parametrize("name", REVISIONS)
def test_it_is_a_module_without_a_model(name: str) -> None:
    known = preprocessing.lookup(name)
    assert known.id in preprocessing.names() and known in of_type("Revision") and known in of_type("All")
    assert preprocessing.detail(known)["model_free"]
    said = {"enabled": True, "module": name, "model": "some canny", "threshold_a": 0.25, "control_mode": "control"}
    request = request_of(preprocessing.with_defaults(parse_unit(said)))
    assert (request.preprocessor, request.model, request.mode) == ("clip_g", name, ControlMode.BALANCED)
    assert request.options == {"noise_augmentation": 0.25}
    text = write_unit(args_of(request))
    assert f"Module: {name}, Model: None" in text and "Threshold A: 0.25" in text
    assert request_of(parse_unit(read_unit(text))) == request


def test_other_words_for_its_encoder_are_the_same() -> None:
    asked = UnitRequest(model=REVISION, preprocessor=AUTO, enabled=True)
    assert request_of(args_of(asked)).preprocessor == "clip_g"


def test_a_mode_of_ours_is_said_as_a_model() -> None:
    asked = UnitRequest(model=REVISION, preprocessor="clip_g", mode=ControlMode.CONTROL, enabled=True)
    assert request_of(args_of(asked)) == asked


def test_the_page_offers_it_and_says_what_it_lacks(tmp_path: Path) -> None:
    offer = choices.offer("Revision", Contents().offer("Revision", ModelFiles([]), None))
    assert (offer.module, offer.model, offer.models) == (REVISION, "None", ["None"])
    assert choices.sliders(REVISION)[1].label == "Noise Augmentation"
    text, runs = choices.about(REVISION, Store(tmp_path, automatic=False))
    assert not runs and "cannot run here" in text and "CLIP" in text + REVISION.upper()
