"""A reference in sd-webui-controlnet's words is a preprocessor without a model, and here a model without a file."""

from __future__ import annotations

import numpy as np
import pytest
from controlstack.core.modes import ControlMode
from controlstack.models.kinds.references import REFERENCES
from controlstack.preprocessors import find
from controlstack.scripts.webui.page import choices
from controlstack.scripts.webui.request import preprocessing
from controlstack.units.request import UnitRequest
from controlstack.units.webui.fields import UnitArgs, args_of, parse_unit, request_of
from controlstack.units.webui.fileless import of_type, without_fidelity
from controlstack.units.webui.infotext import read_unit, write_unit

PICTURE = np.full((4, 6, 3), (255, 0, 0), np.uint8)


@pytest.mark.parametrize("name", REFERENCES)
def test_it_is_a_module_without_a_model(name: str) -> None:
    known = preprocessing.lookup(name)
    assert known.id in preprocessing.names() and known in of_type("Reference") and known in of_type("All")
    assert preprocessing.detail(known)["model_free"] and not preprocessing.detail(find("canny"))["model_free"]
    assert preprocessing.control_types(lambda _: [])["Reference"]["default_option"] == REFERENCES[0]
    unit = preprocessing.with_defaults(parse_unit({"enabled": True, "module": name, "model": "some canny"}))
    request = request_of(unit)
    assert (request.preprocessor, request.model, request.options) == ("none", name, {"fidelity": 0.5})
    assert (preprocessing.Preprocessing()(request, PICTURE) == PICTURE).all()


@pytest.mark.parametrize(
    ("mode", "fidelity", "kept"),
    [
        ("balanced", 0.25, ControlMode.BALANCED),
        ("prompt", 0.0, ControlMode.BALANCED),
        ("control", 0.25, ControlMode.CONTROL),
    ],
)
def test_its_mode_says_its_fidelity(mode: str, fidelity: float, kept: ControlMode) -> None:
    said = {"enabled": True, "module": "reference_only", "threshold_a": 0.25, "control_mode": mode}
    request = request_of(parse_unit(said))
    assert (request.options["fidelity"], request.mode) == (fidelity, kept)
    assert request_of(args_of(request)) == request
    text = write_unit(args_of(request))
    assert "Module: reference_only, Model: None" in text and f"Threshold A: {fidelity}" in text
    assert request_of(parse_unit(read_unit(text))) == request


def test_one_that_says_nothing_of_its_fidelity_stays_so() -> None:
    request = UnitRequest(model="reference_adain", enabled=True)
    assert request_of(args_of(request)) == request
    assert without_fidelity(request).options == {"fidelity": 0.0}
    assert without_fidelity(UnitRequest(model="canny")) == UnitRequest(model="canny")


def test_one_of_a_hint_is_said_as_a_model() -> None:
    request = UnitRequest(model="reference_only", preprocessor="canny", options={"fidelity": 0.3}, enabled=True)
    args = args_of(request)
    assert (args.module, args.model) == ("canny", "reference_only")
    assert request_of(args) == request


def test_the_page_offers_it_and_says_its_price() -> None:
    offer = choices.offer("Reference", [])
    assert (offer.module, offer.model, offer.models) == (REFERENCES[0], "None", ["None"])
    text, runs = choices.about(REFERENCES[0])
    assert runs and "once more" in text
    assert REFERENCES[0] in choices.modules()
    assert choices.sliders(REFERENCES[0])[1].label == "Style Fidelity (only For Balanced Mode)"
    shown = choices.display(UnitArgs(enabled=True, module=REFERENCES[0], threshold_a=0.3))
    assert (shown["module"], shown["model"], shown["threshold_a"]) == (REFERENCES[0], "None", 0.3)
