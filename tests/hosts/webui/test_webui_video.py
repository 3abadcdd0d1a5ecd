"""AnimateDiff beside ours in a real WebUI: off, it changes nothing; on, units act on all frames of its films."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from controlstack.scripts.webui.request.arguments import FIELDS
from PIL import Image
from webui_host import Drawing, Host, RequestError, decode
from webui_oracle import Oracle, Place, Wanted
from webui_units import TOLERANCE, photograph, same, unit

SIZE, STEPS = 64, 3
SHORT, LONG = 4, 6  # frames, of which 4 are drawn at a time
CONTROL = "ControlNet is more important"
BOTH_PASSES = {"enable_hr": True, "hr_scale": 1, "hr_upscaler": "Latent", "denoising_strength": 0.7}


def film(frames: int, **settings: Any) -> dict[str, Any]:
    """AnimateDiff's settings."""
    return {
        "enable": True, "model": "small", "video_length": frames, "batch_size": SHORT, "overlap": 1,
        "format": ["PNG"], **settings,
    }  # fmt: skip


def drawn(host: Host, frames: int, *units: Wanted, **settings: Any) -> Drawing:
    return host.draw(
        *(each.request for each in units), scripts={"AnimateDiff": [film(frames)]}, record=True, steps=STEPS, **settings
    )


def assert_right(drawing: Drawing, frames: int, oracle: Oracle, *units: Wanted) -> None:
    """Each answer of the U-Net is that of the same U-Net with our core, and each frame is drawn in each step."""
    assert len(drawing.pictures) == frames + len(units)  # and their hints
    calls = sorted({each.call for each in drawing.evaluations})
    assert len(calls) == STEPS
    for seen in drawing.evaluations:
        answer = oracle.answer(seen, units, Place(calls.index(seen.call), 0, STEPS))
        assert (seen.out - answer).abs().max() <= TOLERANCE * answer.abs().max(), seen.call
    rows = {len(each.x) for each in drawing.evaluations}
    assert rows == {2 * SHORT} and (len(drawing.evaluations) > STEPS) == (frames > SHORT)


def test_an_extension_that_is_off_changes_nothing(webui_video: Host, webui: Host, plain: Drawing) -> None:
    asked = unit(4).request
    assert same(webui_video.draw(), plain)
    assert same(webui_video.draw(asked), webui.draw(asked))


@pytest.mark.parametrize("frames", [SHORT, LONG])
@pytest.mark.parametrize(
    "units",
    [(), (unit(1),), (unit(1, control_mode=CONTROL), unit(2, "depth", weight=0.6))],
    ids=["none", "one", "two"],
)
def test_units_act_on_all_frames(
    webui_video: Host, oracle: Oracle, plain: Drawing, frames: int, units: tuple[Wanted, ...]
) -> None:
    assert_right(drawn(webui_video, frames, *units), frames, oracle, *units)
    assert webui_video.count()["hooks"] == 0
    assert same(webui_video.draw(), plain)
    assert "Error running" not in webui_video.log.read_text()


def test_a_film_in_two_passes(webui_video: Host, oracle: Oracle) -> None:
    """Long films are drawn a few frames at a time in the hires pass, too."""
    units = (unit(1, control_mode=CONTROL, hr_option="High res only"), unit(2, "depth"))
    drawing = drawn(webui_video, LONG, *units, **BOTH_PASSES)
    for hires in (False, True):
        evaluations = [seen for seen in drawing.evaluations if seen.hires is hires]
        calls = sorted({each.call for each in evaluations})
        assert len(calls) == STEPS < len(evaluations) and {len(each.x) for each in evaluations} == {2 * SHORT}
        for seen in evaluations:
            answer = oracle.answer(seen, units, Place(calls.index(seen.call), 0, STEPS))
            assert (seen.out - answer).abs().max() <= TOLERANCE * answer.abs().max(), (hires, seen.call)


@pytest.fixture
def apart(webui_video: Host) -> Iterator[Host]:
    """The WebUI draws cond and uncond rows apart; it does not take back what a request overrides."""
    webui_video.post("sdapi/v1/options", {"batch_cond_uncond": False})
    yield webui_video
    webui_video.post("sdapi/v1/options", {"batch_cond_uncond": True})


def test_a_film_in_halves(apart: Host, oracle: Oracle) -> None:
    asked = unit(3, control_mode=CONTROL)
    drawing = drawn(apart, LONG, asked)
    calls = sorted({each.call for each in drawing.evaluations})
    assert {each.cond for each in drawing.evaluations} == {(True,) * SHORT, (False,) * SHORT}
    for seen in drawing.evaluations:
        answer = oracle.answer(seen, (asked,), Place(calls.index(seen.call), 0, STEPS))
        assert (seen.out - answer).abs().max() <= TOLERANCE * answer.abs().max(), seen.call


@pytest.mark.parametrize("frames", [SHORT, LONG])
@pytest.mark.parametrize("on", [False, True])
def test_the_page_draws_films(webui_video: Host, frames: int, on: bool) -> None:
    """As a client does, whether a unit of its tabs is on or not."""
    wanted = unit(1)
    sent = (wanted,) if on else ()
    webui_video.draw()  # the WebUI makes its widgets when the first client asks
    values = dict.fromkeys(FIELDS) | {"module": "none", "weight": 1.0, "processor_res": 64}
    values |= {"guidance_start": 0.0, "guidance_end": 1.0, "model": "canny", "enabled": on}
    picture = wanted.request["image"]
    tab = [{**values, "image": picture if on else None}[name] for name in FIELDS]
    settings = {"prompt": "a cat", "negative_prompt": "a dog", "steps": STEPS, "width": SIZE, "height": SIZE}
    settings |= {"seed": 1, "sampler_name": "Euler a", "cfg_scale": 7}
    body = {"film": film(frames), "scripts": {"ControlStack": tab}, "settings": settings}
    found = [decode(each) for each in webui_video.post("test/film", body)["images"]]
    asked = drawn(webui_video, frames, *sent).pictures
    assert len(found) == len(asked) and all((a == b).all() for a, b in zip(found, asked, strict=True))
    assert "Error running" not in webui_video.log.read_text()


def test_a_unit_for_the_frames_of_a_video_is_refused(webui_video: Host, plain: Drawing, tmp_path: Path) -> None:
    """AnimateDiff gives units without a picture those of a folder; units have one picture for all frames."""
    for number in range(SHORT):
        Image.fromarray(photograph(number)).save(tmp_path / f"{number}.png")
    asked = unit(1).request | {"image": None}
    with pytest.raises(RequestError, match="unit 0 is to see another picture of a video in each frame") as caught:
        webui_video.draw(asked, scripts={"AnimateDiff": [film(SHORT, video_path=str(tmp_path))]})
    assert caught.value.status == 422
    assert same(webui_video.draw(), plain)
