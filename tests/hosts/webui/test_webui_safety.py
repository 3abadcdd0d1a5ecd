"""Our units in a real AUTOMATIC1111 WebUI leave nothing behind: when off, when something fails, when users stop it."""

from __future__ import annotations

import random
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import webui_host
import webui_world
from webui_host import Drawing, Host, RequestError, decode, encode
from webui_oracle import Wanted
from webui_units import SIZE, differ, photograph, same, unit

HIRES = {"enable_hr": True, "hr_scale": 1.5, "hr_upscaler": "Latent", "denoising_strength": 0.7}
SCENE = {"init_images": [encode(photograph(9))], "denoising_strength": 0.6, "route": "img2img"}
MODES = ("Balanced", "My prompt is more important", "ControlNet is more important")
FILES = ("canny", "depth", "t2i")
CANNY = "controlstack.preprocessors.lazy.cv2.Canny"


OFF: dict[str, dict[str, Any]] = {
    "one picture": {},
    "two passes": HIRES,
    "a picture from another": SCENE,
    "a batch": {"batch_size": 2, "n_iter": 2, "prompt": "a cat AND a bird"},
}


def operations(host: Host, *units: dict[str, Any], **settings: Any) -> dict[str, int]:
    """Tensor operations of a request, with their shapes; the same request came before, so prompts are known."""
    host.draw(*units, **settings)
    host.post("test/operations?count=true")
    host.draw(*units, **settings)
    return host.post("test/operations?count=false")


def test_installed_but_off_adds_no_operation(webui: Host, webui_path: Path, webui_models: Path, tmp_path: Path) -> None:
    off = {**unit().request, "enabled": False}
    webui.draw(unit().request)
    assert webui.count()["during"] > 0
    with webui_host.started(webui_path, tmp_path / "data", webui_models, extensions=()) as bare:
        for name, settings in OFF.items():
            usual = operations(bare, **settings)
            assert sum(usual.values()) > 1000
            assert operations(webui, **settings) == usual, name
            assert operations(webui, off, **settings) == usual, name
    assert operations(webui, unit().request) != operations(webui)
    webui.draw()
    counts = webui.count()
    assert (counts["during"], counts["hooks"]) == (0, 0)


FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "unknown model": ({"model": "cany"}, "did you mean canny"),
    "unknown module": ({"module": "nix"}, "there is no preprocessor 'nix'"),
    "no model": ({"model": "None"}, "has no model"),
    "no picture": ({"image": ""}, "has no picture"),
    "a path": ({"image": "/etc/passwd"}, "paths and addresses are not opened"),
    "wrong base": ({"model": "xl"}, "was trained for .* the loaded checkpoint is"),
    "no control model": ({"model": "lora"}, "it is a LoRA"),
    "style adapter": (
        {"model": "style"},
        "and the preprocessor none gives a picture: choose clip_vision",
    ),
    "weight": ({"weight": 11}, "expected -10 to 10"),
    "range upside down": ({"guidance_start": 0.8, "guidance_end": 0.2}, "after its end"),
    "block weights": ({"advanced_weighting": [1, 2]}, "has 13 blocks, got 2"),
    "parameters": ({"module": "canny", "parameters": {"nope": 1}}, "has no parameter 'nope'"),
    "damaged picture": ({"image": encode(photograph())[:200]}, "damaged|no base64"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults_are_answered_with_a_sentence_and_leave_nothing_behind(webui: Host, plain: Drawing, name: str) -> None:
    settings, words = FAULTS[name]
    with pytest.raises(RequestError, match=words) as caught:
        webui.draw(unit().request, {**unit().request, **settings})
    assert caught.value.status == 422
    assert same(webui.draw(), plain)
    assert webui.count()["hooks"] == 0


def test_a_fault_in_a_unit_that_is_off_is_none(webui: Host, plain: Drawing) -> None:
    assert same(webui.draw({"enabled": False, "model": "nix", "weight": 9, "image": "/etc/passwd"}), plain)


@pytest.mark.parametrize("function", [CANNY, "torch.nn.Module.load_state_dict"])
def test_an_unexpected_error_before_the_run_ends_the_request(
    webui: Host, webui_models: Path, plain: Drawing, function: str
) -> None:
    (webui_models / "ControlNet" / "pose.safetensors").touch()  # so that it is loaded again
    webui.post(f"test/meddle?function={function}")
    with pytest.raises(RequestError, match="the test asked for a failure"):
        webui.draw(unit(3, "pose", module="canny", threshold_a=33).request)
    assert webui.count()["hooks"] == 0
    assert same(webui.draw(), plain)
    assert differ(webui.draw(unit(3, "pose", module="canny", threshold_a=33).request), plain) > 5


@pytest.mark.parametrize("call", [1, 3])
def test_a_run_that_breaks_leaves_nothing_behind(webui: Host, plain: Drawing, call: int) -> None:
    before = webui.draw(unit().request)
    webui.post(f"test/set?how=raise&call={call}")
    with pytest.raises(RequestError, match="the test asked for a failure"):
        webui.post("sdapi/v1/txt2img", _body(unit()))
    assert webui.count()["hooks"] == 0
    assert same(webui.draw(), plain)
    assert same(webui.draw(unit().request), before)


def wait_for(webui: Host, *wanted: Wanted, how: str, after: int | str, call: int = 1, **settings: Any) -> list[Any]:
    """The pictures of a request which a user stops at an evaluation, or at a call of a function."""
    at = f"set?how={how}&call={after}" if isinstance(after, int) else f"meddle?how={how}&call={call}&function={after}"
    webui.post(f"test/{at}")
    return [decode(each) for each in webui.post("sdapi/v1/txt2img", _body(*wanted, **settings))["images"]]


@pytest.mark.parametrize("settings", [{"steps": 20}, {"steps": 3, **HIRES}], ids=["one pass", "two passes"])
@pytest.mark.parametrize("how", ["interrupt", "skip", "stop"])
@pytest.mark.parametrize("after", [1, 2, 5, CANNY])
def test_a_run_that_is_stopped_leaves_nothing_behind(
    webui: Host, plain: Drawing, settings: dict[str, Any], how: str, after: int | str
) -> None:
    seed = random.Random(str((how, after, sorted(settings)))).randrange(1000, 10**6)  # no hint is known from before
    wanted = (unit(seed, module="canny", threshold_a=1), unit(seed + 1, "depth", module="canny"))
    wait_for(webui, *wanted, how=how, after=after, **settings)
    assert webui.get("test/meddled") == 0
    assert webui.count()["hooks"] == 0
    assert same(webui.draw(), plain)
    assert differ(webui.draw(unit().request), plain) > 5


SEVERAL = {"n_iter": 3, "batch_size": 1}


def test_stopping_after_this_picture_finishes_it(webui: Host) -> None:
    wanted = unit(save_detected_map=False)
    every = [decode(each) for each in webui.post("sdapi/v1/txt2img", _body(wanted, **SEVERAL))["images"]]
    first = wait_for(webui, wanted, how="stop", after=2, **SEVERAL)
    assert len(every) == 3 and len(first) == 1 and (first[0] == every[0]).all()


def test_skipping_a_picture_leaves_the_next_one(webui: Host) -> None:
    wanted = unit(save_detected_map=False)
    every = [decode(each) for each in webui.post("sdapi/v1/txt2img", _body(wanted, **SEVERAL))["images"]]
    found = wait_for(webui, wanted, how="skip", after=2, **SEVERAL)
    assert len(found) == 3 and not (found[0] == every[0]).all()
    assert all((a == b).all() for a, b in zip(found[1:], every[1:], strict=True))


def test_an_interrupt_between_two_pictures_is_no_error(webui: Host, plain: Drawing) -> None:
    """The second picture's hints are made of the first one; a user stops it there, and keeps the first."""
    loops = {"module": "canny", "threshold_a": 1, "save_detected_map": False, "loopback": True}
    wanted = (unit(41, threshold_b=2, **loops), unit(42, "depth", threshold_b=3, **loops))
    found = wait_for(webui, *wanted, how="interrupt", after=CANNY, call=3, **SEVERAL)
    assert webui.get("test/meddled") == 0
    every = [decode(each) for each in webui.post("sdapi/v1/txt2img", _body(*wanted, **SEVERAL))["images"]]
    assert len(found) == 2 and (found[0] == every[0]).all() and not (found[1] == every[1]).all()
    assert webui.count()["hooks"] == 0
    assert same(webui.draw(), plain)


@pytest.mark.parametrize("how", ["interrupt", "skip", "stop"])
def test_users_may_act_at_any_time(webui: Host, plain: Drawing, how: str) -> None:
    """Also while pictures are read, models loaded and preprocessors run, and in the hires pass."""
    chance = random.Random(how)
    for delay in (0.0, *(chance.uniform(0, 1.5) for _ in range(7))):
        wanted = (unit(chance.randrange(99), module="shuffle", processor_res=1024), unit(1, "depth", module="canny"))
        thread = threading.Thread(target=webui.post, args=("sdapi/v1/txt2img", _body(*wanted, **SEVERAL, **HIRES)))
        thread.start()
        time.sleep(delay)
        webui.post(f"test/act?how={how}")
        thread.join()
        assert webui.count()["hooks"] == 0
        assert same(webui.draw(), plain), delay


def _body(*units: Wanted, **settings: Any) -> dict[str, Any]:
    sent = {"args": [each.request for each in units]}
    size = {"width": SIZE, "height": SIZE, "steps": 3, "seed": 1, "prompt": "a cat"}
    return {**size, "alwayson_scripts": {"controlnet": sent}, **settings}


def test_nothing_grows(webui: Host) -> None:
    """A hundred requests: other models, pictures, preprocessors, modes, sizes, passes; some fail, some are stopped."""

    def run(k: int) -> None:
        several = [
            unit(k + i, file, weight=0.5 + k / 200, control_mode=MODES[k % 3], module=("none", "canny")[(k + i) % 2])
            for i, file in enumerate(FILES[: 1 + k % 3])
        ]
        settings: dict[str, Any] = {
            "steps": 1 + k % 2,
            **(HIRES if k % 5 == 0 else {}),
            "width": SIZE + 64 * (k % 7 == 0),
        }
        if k % 9 == 8:
            with pytest.raises(RequestError):
                webui.draw(*(each.request for each in several), unit(model="nix").request, **settings)
        elif k % 9 == 4:
            wait_for(webui, *several, how=("interrupt", "skip", "stop")[k % 4 % 3], after=1, **settings)
        else:
            webui.draw(*(each.request for each in several), **settings)

    for k in range(40):
        run(k)
    before = webui.count()
    for k in range(40, 140):
        run(k)
    after = webui.count()
    assert (after["hooks"], after["callbacks"]) == (0, before["callbacks"])
    assert after["tensors"] - before["tensors"] < 20  # those of the last run
    hints = after["hints"] - before["hints"]  # those that are kept have a bound of their own
    assert hints > 20 * 2**20
    assert after["memory"] - before["memory"] - hints < 64 * 2**20  # with what is free and not given back
    assert after["heap"] - before["heap"] - hints < 4 * 2**20


THRIFTY = {"--medvram": (True, True), "--lowvram": (True, True), "--medvram-sdxl": (False, True)}  # SD, SDXL


@pytest.mark.parametrize("flag", THRIFTY)
def test_little_memory_draws_the_same(
    webui: Host, webui_path: Path, webui_models: Path, tmp_path: Path, flag: str
) -> None:
    bases = {
        webui_world.NAME: (unit(low_vram=True).request, unit(1, "t2i").request),
        webui_world.V2: (unit(file="v2").request, unit(1, "v2", weight=0.5).request),
        webui_world.XL: (unit(file="xl").request, unit(1, "xl", weight=0.5).request),
    }
    with webui_host.started(webui_path, tmp_path / "data", webui_models, flags=(flag,)) as thrifty:
        for base, units in bases.items():
            # its previews would need a network from the internet
            chosen = {"override_settings": {"sd_model_checkpoint": base, "live_previews_enable": False}}
            drawn = thrifty.draw(*units, **chosen)
            again = thrifty.draw(*units, **chosen)
            assert bool(thrifty.count()["takes turns"]) is THRIFTY[flag][base == webui_world.XL]
            wanted = webui.draw(*units, **chosen)
            assert differ(drawn, wanted) <= 0.1 and same(drawn, again), base
            assert differ(webui.draw(**chosen), wanted) > 1
