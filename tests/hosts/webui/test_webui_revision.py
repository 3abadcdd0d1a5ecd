"""Revision in a real AUTOMATIC1111 WebUI and in Forge's family: what the U-Net is given, and what it answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import webui_world
from controlstack.models.fileless.revision import RevisionModel, augmented
from controlstack.models.kinds.revisions import IGNORE_PROMPT, REVISION, REVISIONS
from webui_effects import A1111, TOLERANCE, draw, same
from webui_host import Drawing, Evaluation, Host, RequestError, encode
from webui_oracle import Oracle, Place, Wanted
from webui_units import photograph, unit

WIDTH = 1280


@pytest.fixture(scope="module")
def chosen(every_name: str) -> dict[str, Any]:
    """SDXL's small checkpoint; previews would need a network from the internet."""
    base = webui_world.XL if every_name == A1111 else webui_world.XL_PAIR
    return {"override_settings": {"sd_model_checkpoint": base, "live_previews_enable": False}}


@pytest.fixture(scope="module")
def plain(every_host: Host, chosen: dict[str, Any]) -> Drawing:
    return draw(every_host, **chosen)


@pytest.fixture(scope="module")
def oracle(every_name: str, every_models: Path) -> Oracle:
    return Oracle(every_models, webui_world.XL if every_name == A1111 else webui_world.XL_PAIR)


def asked(kind: str = REVISION, seed: int = 0, **settings: Any) -> Wanted:
    """A unit as clients send it."""
    return unit(seed, file="None", module=kind, **settings)


def shown(oracle: Oracle, seed: int = 0, noise: float = 0.0) -> torch.Tensor:
    """What stands for a picture, [1, D]."""
    return augmented(oracle.seen(photograph(seed), RevisionModel(REVISION, WIDTH))[:, 0], noise)


def given(seen: Evaluation, like: Evaluation, pooled: torch.Tensor, silent: bool = False) -> None:
    """Compare the conditions of an evaluation with those of one without units."""
    assert seen.y is not None and like.y is not None
    cond = torch.tensor(like.cond)[:, None]
    assert torch.allclose(seen.y[:, :WIDTH], pooled * cond, atol=1e-5)
    assert torch.equal(seen.y[:, WIDTH:], like.y[:, WIDTH:])
    assert torch.equal(seen.context, like.context * (not silent))


@pytest.mark.parametrize("kind", REVISIONS)
def test_the_network_gets_the_picture_in_place_of_the_pooled_prompt(
    every_host: Host, chosen: dict[str, Any], plain: Drawing, oracle: Oracle, kind: str
) -> None:
    drawing = draw(every_host, asked(kind, weight=0.7, threshold_a=0.3), **chosen)
    assert len(drawing.evaluations) == len(plain.evaluations) > 0
    for number, (seen, like) in enumerate(zip(drawing.evaluations, plain.evaluations, strict=True)):
        given(seen, like, 0.7 * shown(oracle, noise=0.3), kind == IGNORE_PROMPT)
        answer = oracle.answer(seen, (), Place(number, 0, len(plain.evaluations)))
        assert (seen.out - answer).abs().max() <= TOLERANCE * answer.abs().max()
    assert not same(drawing, plain)
    assert same(draw(every_host, **chosen), plain)
    assert every_host.count()["hooks"] == 0 and every_host.count()["controls"] == 0
    text = drawing.info["infotexts"][0]
    assert f"Module: {kind}, Model: None, Weight: 0.7" in text and "Threshold A: 0.3" in text


def test_several_are_summed_on_their_steps(
    every_host: Host, chosen: dict[str, Any], plain: Drawing, oracle: Oracle
) -> None:
    late = {"guidance_start": 0.5, "range_basis": "steps"}
    drawing = draw(every_host, asked(weight=0.5), asked(seed=1, weight=-0.3, **late), **chosen)
    first, second = 0.5 * shown(oracle), -0.3 * shown(oracle, 1)
    for number, (seen, like) in enumerate(zip(drawing.evaluations, plain.evaluations, strict=True)):
        given(seen, like, first + second * (number / len(plain.evaluations) >= 0.5))


@pytest.mark.parametrize("how", ["raise", "interrupt"])
def test_a_run_that_ends_early_leaves_nothing_behind(
    every_host: Host, chosen: dict[str, Any], plain: Drawing, how: str
) -> None:
    every_host.post(f"test/set?how={how}&call=2")
    if how == "raise":
        with pytest.raises(RequestError, match="the test asked for a failure"):
            every_host.draw(asked(IGNORE_PROMPT).request, **chosen)
    else:
        every_host.draw(asked(IGNORE_PROMPT).request, **chosen)
    assert every_host.count()["hooks"] == 0 and every_host.count()["controls"] == 0
    assert same(draw(every_host, **chosen), plain)


def test_it_is_refused_where_it_cannot_act(every_host: Host, chosen: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match="vector condition of SDXL, and the loaded base model has none"):
        draw(every_host, asked())
    masked = {**asked().request, "effective_region_mask": encode(photograph())}
    with pytest.raises(RequestError, match="has no place in the picture: leave its mask out"):
        every_host.draw(masked, **chosen)


def test_the_lists_offer_it(every_host: Host) -> None:
    found = every_host.get("controlnet/module_list")
    assert set(REVISIONS) <= set(found["module_list"])
    (slider,) = found["module_detail"][IGNORE_PROMPT]["sliders"]
    assert found["module_detail"][REVISION]["model_free"] is True
    assert (slider["name"], slider["value"], slider["max"]) == ("Noise Augmentation", 0.0, 1.0)
    kind = every_host.get("controlnet/control_types")["control_types"]["Revision"]
    assert kind == {
        "module_list": list(REVISIONS),
        "model_list": ["None"],
        "default_option": REVISION,
        "default_model": "None",
    }
    body = {"controlnet_module": REVISION, "controlnet_input_images": [encode(photograph())]}
    with pytest.raises(RequestError, match="Module not supported"):
        every_host.post("controlnet/detect", body)
