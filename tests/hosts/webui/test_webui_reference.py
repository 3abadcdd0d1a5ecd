"""References in a real AUTOMATIC1111 WebUI and in Forge's family, as sd-webui-controlnet's clients ask for them.

Each evaluation is compared with our core on diffusers' U-Net with the same weights; `tests/effects/test_reference.py`
compares that with a formula written by hand.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from controlstack.models.kinds.references import REFERENCES
from webui_effects import A1111, HIRES, check, draw, same, started
from webui_host import Drawing, Host, RequestError, decode, encode
from webui_oracle import Oracle, Wanted
from webui_units import HALF, SIZE, photograph, unit

BOTH = REFERENCES[-1]
MODES = {  # the fidelity that each mode of that program comes to
    "Balanced": 0.25,
    "My prompt is more important": 0.0,
    "ControlNet is more important": 1.0,
}


def asked(kind: str, **settings: Any) -> Wanted:
    """A unit as clients send it."""
    return unit(file="None", module=kind, **settings)


def meant(wanted: Wanted, fidelity: float = 0.5, **settings: Any) -> Wanted:
    """The same, as the core knows it."""
    said = {**wanted.settings, "options": {"fidelity": fidelity}, **settings}
    return replace(wanted, file=said["module"], settings=said)


@pytest.mark.parametrize("kind", REFERENCES)
def test_each_equals_the_core_outside_the_host(
    every_host: Host, every_oracle: Oracle, every_plain: Drawing, kind: str
) -> None:
    drawing = draw(every_host, asked(kind), batch_size=2)
    check(drawing, every_oracle, meant(asked(kind)))
    assert same(draw(every_host), every_plain)
    assert every_host.count()["hooks"] == 0
    text = drawing.info["infotexts"][0]
    assert f"Module: {kind}, Model: None, Weight: 1.0" in text and "Threshold A: 0.5" in text


@pytest.mark.parametrize("mode", MODES)
def test_modes_are_those_of_that_program(every_host: Host, every_oracle: Oracle, mode: str) -> None:
    wanted = asked(BOTH, threshold_a=0.25, control_mode=mode)
    check(draw(every_host, wanted), every_oracle, meant(wanted, MODES[mode], control_mode="Balanced"))


def test_the_hires_pass_of_a_balanced_unit_has_no_fidelity(every_host: Host, every_oracle: Oracle) -> None:
    wanted = asked(BOTH)
    drawing = draw(every_host, wanted, **HIRES)
    for hires, fidelity in ((False, 0.5), (True, 0.0)):
        part = replace(drawing, evaluations=[each for each in drawing.evaluations if each.hires is hires])
        check(part, every_oracle, meant(wanted, fidelity))


def test_weight_range_and_region_are_kept(every_host: Host, every_oracle: Oracle) -> None:
    wanted = replace(asked(BOTH, weight=0.7, guidance_start=0.2, range_basis="steps"), mask=HALF)
    check(draw(every_host, wanted, batch_size=2), every_oracle, meant(wanted))


def test_beside_other_units(every_host: Host, every_oracle: Oracle, every_plain: Drawing) -> None:
    others = (unit(1, "canny", weight=0.6), unit(2, "cross-normed", weight=0.6))
    wanted = (asked(REFERENCES[0], weight=0.6), asked(REFERENCES[1], weight=0.6))
    check(draw(every_host, *wanted, *others), every_oracle, *map(meant, wanted), *others)
    assert same(draw(every_host), every_plain)


@pytest.mark.parametrize("how", ["raise", "interrupt"])
def test_a_run_that_ends_early_leaves_nothing_behind(every_host: Host, every_plain: Drawing, how: str) -> None:
    every_host.post(f"test/set?how={how}&call=2")
    body: dict[str, Any] = {"steps": 6, "width": SIZE, "height": SIZE, "sampler_name": "Euler a", "prompt": "a cat"}
    body["alwayson_scripts"] = {"ControlNet": {"args": [asked(BOTH).request]}}
    if how == "raise":
        with pytest.raises(RequestError, match="the test asked for a failure"):
            every_host.post("sdapi/v1/txt2img", body)
    else:
        every_host.post("sdapi/v1/txt2img", body)
    assert every_host.count()["hooks"] == 0 and every_host.count()["controls"] == 0
    assert same(draw(every_host), every_plain)


def test_the_lists_offer_them(every_host: Host) -> None:
    found = every_host.get("controlnet/module_list")
    assert set(REFERENCES) <= set(found["module_list"])
    (slider,) = found["module_detail"][BOTH]["sliders"]
    assert found["module_detail"][BOTH]["model_free"] is True and slider["value"] == 0.5
    kind = every_host.get("controlnet/control_types")["control_types"]["Reference"]
    assert kind == {
        "module_list": list(REFERENCES),
        "model_list": ["None"],
        "default_option": REFERENCES[0],
        "default_model": "None",
    }
    picture = photograph()
    answer = every_host.post(
        "controlnet/detect", {"controlnet_module": BOTH, "controlnet_input_images": [encode(picture)]}
    )
    assert (decode(answer["images"][0]) == picture).all()


@pytest.mark.parametrize("flags", [("--lowvram",), ("--medvram",)])
def test_little_memory_draws_the_same(every_models: Path, tmp_path: Path, flags: tuple[str, ...]) -> None:
    oracle = Oracle(every_models)
    with started(A1111, tmp_path / "data", every_models, *flags) as host:
        plain = draw(host)
        check(draw(host, asked(BOTH)), oracle, meant(asked(BOTH)))
        assert same(draw(host), plain)
